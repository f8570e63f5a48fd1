"""Every part of S3 that boto3 reaches, against the server at AWS_ENDPOINT_URL. Prints one line a check and "N passed, N failed"."""

import base64
import hashlib
import io
import os
import random
import sys
import traceback
import urllib.error
import urllib.request
import ssl
import zlib

import boto3
from botocore.client import Config
from botocore.exceptions import ClientError

ENDPOINT = os.environ["AWS_ENDPOINT_URL"]
BUCKET = "boto3-all"
RANDOM = random.Random(20240229)


def client(**settings):
    settings.setdefault("s3", {"addressing_style": "path"})
    settings.setdefault("retries", {"max_attempts": 1})
    return boto3.client("s3", endpoint_url=ENDPOINT, config=Config(**settings))


S3 = client()
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def data(length):
    return RANDOM.randbytes(length)


def body(key, **more):
    return S3.get_object(Bucket=BUCKET, Key=key, **more)["Body"].read()


def refused(status, code, call, **arguments):
    try:
        call(**arguments)
    except ClientError as error:
        seen = (error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]["Code"])
        assert seen[0] == status and (code is None or seen[1] == code), f"answered {seen}, expected {(status, code)}"
        return error
    raise AssertionError(f"was not refused with {code}")


def url_open(url, method="GET", content=None, headers=None):
    context = ssl.create_default_context(cafile=os.environ["AWS_CA_BUNDLE"]) if "AWS_CA_BUNDLE" in os.environ else None
    request = urllib.request.Request(url, data=content, method=method, headers=headers or {})
    try:
        with urllib.request.urlopen(request, context=context) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@check
def buckets():
    assert BUCKET in [b["Name"] for b in S3.list_buckets()["Buckets"]]
    S3.head_bucket(Bucket=BUCKET)
    S3.create_bucket(Bucket=BUCKET)
    assert S3.get_bucket_location(Bucket=BUCKET)["LocationConstraint"] is None
    assert S3.get_bucket_versioning(Bucket=BUCKET).get("Status") is None
    S3.create_bucket(Bucket="boto3-second")
    S3.delete_bucket(Bucket="boto3-second")
    refused(404, "404", S3.head_bucket, Bucket="boto3-second")


@check
def put_and_get_at_every_size():
    for length in [0, 1, 8191, 8192, 8193, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 5 << 20]:
        content = data(length)
        answer = S3.put_object(Bucket=BUCKET, Key=f"size/{length}", Body=content)
        assert answer["ETag"] == f'"{hashlib.md5(content).hexdigest()}"'
        assert body(f"size/{length}") == content, length


@check
def default_checksum_is_crc32_and_comes_back():
    content = data(100_000)
    answer = S3.put_object(Bucket=BUCKET, Key="crc", Body=content)
    expected = base64.b64encode(zlib.crc32(content).to_bytes(4, "big")).decode()
    assert answer["ChecksumCRC32"] == expected, answer
    head = S3.head_object(Bucket=BUCKET, Key="crc", ChecksumMode="ENABLED")
    assert head["ChecksumCRC32"] == expected, head
    assert "ContentEncoding" not in head, head


@check
def every_checksum_algorithm():
    content = data(70_000)
    for algorithm, digest in [("SHA1", hashlib.sha1), ("SHA256", hashlib.sha256)]:
        S3.put_object(Bucket=BUCKET, Key="sum", Body=content, ChecksumAlgorithm=algorithm)
        head = S3.head_object(Bucket=BUCKET, Key="sum", ChecksumMode="ENABLED")
        assert head["Checksum" + algorithm] == base64.b64encode(digest(content).digest()).decode()


@check
def every_way_to_send_a_body():
    content = data(300_000)
    ways = {
        "signed": client(request_checksum_calculation="when_required", s3={"addressing_style": "path", "payload_signing_enabled": True}),
        "unsigned": client(request_checksum_calculation="when_required", s3={"addressing_style": "path", "payload_signing_enabled": False}),
        "trailer": client(s3={"addressing_style": "path", "payload_signing_enabled": False}),
        "default": S3,
    }
    for name, way in ways.items():
        way.put_object(Bucket=BUCKET, Key=f"way/{name}", Body=content)
        assert body(f"way/{name}") == content, name
        way.put_object(Bucket=BUCKET, Key=f"way/{name}/stream", Body=io.BytesIO(content))
        assert body(f"way/{name}/stream") == content, name
        assert "ContentEncoding" not in S3.head_object(Bucket=BUCKET, Key=f"way/{name}/stream"), name


@check
def metadata_and_headers_round_trip():
    sent = dict(ContentType="text/x-test", CacheControl="no-store", ContentDisposition="attachment", ContentLanguage="de",
                ContentEncoding="gzip", Metadata={"one": "1", "long-name": "two words", "case": "MiXeD"})
    S3.put_object(Bucket=BUCKET, Key="meta", Body=b"x", **sent)
    head = S3.head_object(Bucket=BUCKET, Key="meta")
    for name, value in sent.items():
        assert head[name] == value, (name, head[name])
    answer = S3.get_object(Bucket=BUCKET, Key="meta", ResponseContentType="a/b", ResponseCacheControl="c")
    assert answer["ContentType"] == "a/b" and answer["CacheControl"] == "c"


@check
def ranges():
    content = data(2_500_000)
    S3.put_object(Bucket=BUCKET, Key="range", Body=content)
    for text, expected in [("0-0", content[:1]), ("5-1048580", content[5:1048581]), ("2499999-", content[-1:]), ("-7", content[-7:]),
                           ("1048576-1048576", content[1048576:1048577]), ("0-99999999", content)]:
        answer = S3.get_object(Bucket=BUCKET, Key="range", Range=f"bytes={text}")
        assert answer["Body"].read() == expected, text
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == 206
    refused(416, "InvalidRange", S3.get_object, Bucket=BUCKET, Key="range", Range="bytes=2500000-")


@check
def conditions():
    tag = S3.put_object(Bucket=BUCKET, Key="if", Body=b"one")["ETag"]
    refused(412, "PreconditionFailed", S3.put_object, Bucket=BUCKET, Key="if", Body=b"two", IfNoneMatch="*")
    refused(412, "PreconditionFailed", S3.put_object, Bucket=BUCKET, Key="if", Body=b"two", IfMatch='"0"')
    S3.put_object(Bucket=BUCKET, Key="if", Body=b"two", IfMatch=tag)
    S3.put_object(Bucket=BUCKET, Key="if-new", Body=b"x", IfNoneMatch="*")
    refused(412, "PreconditionFailed", S3.get_object, Bucket=BUCKET, Key="if", IfMatch=tag)
    tag = S3.head_object(Bucket=BUCKET, Key="if")["ETag"]
    refused(304, None, S3.get_object, Bucket=BUCKET, Key="if", IfNoneMatch=tag)
    modified = S3.head_object(Bucket=BUCKET, Key="if")["LastModified"]
    refused(304, None, S3.get_object, Bucket=BUCKET, Key="if", IfModifiedSince=modified)
    S3.get_object(Bucket=BUCKET, Key="if", IfUnmodifiedSince=modified)


@check
def copies():
    content = data(1_500_000)
    S3.put_object(Bucket=BUCKET, Key="from ü", Body=content, Metadata={"who": "me"}, ContentType="a/b")
    source = {"Bucket": BUCKET, "Key": "from ü"}
    S3.copy_object(Bucket=BUCKET, Key="to", CopySource=source)
    head = S3.head_object(Bucket=BUCKET, Key="to")
    assert body("to") == content and head["Metadata"] == {"who": "me"} and head["ContentType"] == "a/b"
    S3.copy_object(Bucket=BUCKET, Key="to", CopySource={"Bucket": BUCKET, "Key": "to"}, MetadataDirective="REPLACE", Metadata={"who": "you"})
    head = S3.head_object(Bucket=BUCKET, Key="to")
    assert body("to") == content and head["Metadata"] == {"who": "you"}
    refused(400, "InvalidRequest", S3.copy_object, Bucket=BUCKET, Key="to", CopySource={"Bucket": BUCKET, "Key": "to"})
    refused(404, "NoSuchKey", S3.copy_object, Bucket=BUCKET, Key="to", CopySource={"Bucket": BUCKET, "Key": "nowhere"})
    refused(412, "PreconditionFailed", S3.copy_object, Bucket=BUCKET, Key="to", CopySource=source, CopySourceIfMatch='"0"')


@check
def multipart():
    parts = [data(5 << 20), data(5 << 20), data(123)]
    upload = S3.create_multipart_upload(Bucket=BUCKET, Key="parts", Metadata={"m": "1"}, ContentType="x/y")["UploadId"]
    assert upload in [u["UploadId"] for u in S3.list_multipart_uploads(Bucket=BUCKET)["Uploads"]]
    done = []
    for number, part in enumerate(parts, 1):
        answer = S3.upload_part(Bucket=BUCKET, Key="parts", UploadId=upload, PartNumber=number, Body=part)
        assert answer["ETag"] == f'"{hashlib.md5(part).hexdigest()}"'
        done.append({"PartNumber": number, "ETag": answer["ETag"], "ChecksumCRC32": answer["ChecksumCRC32"]})
    refused(404, "NoSuchKey", S3.get_object, Bucket=BUCKET, Key="parts")
    listed = S3.list_parts(Bucket=BUCKET, Key="parts", UploadId=upload, MaxParts=2)
    assert listed["IsTruncated"] and [p["PartNumber"] for p in listed["Parts"]] == [1, 2]
    listed = S3.list_parts(Bucket=BUCKET, Key="parts", UploadId=upload, PartNumberMarker=2)
    assert [p["Size"] for p in listed["Parts"]] == [123]
    answer = S3.complete_multipart_upload(Bucket=BUCKET, Key="parts", UploadId=upload, MultipartUpload={"Parts": done})
    expected = hashlib.md5(b"".join(hashlib.md5(p).digest() for p in parts)).hexdigest() + "-3"
    assert answer["ETag"] == f'"{expected}"', answer
    head = S3.head_object(Bucket=BUCKET, Key="parts")
    assert head["ETag"] == f'"{expected}"' and head["Metadata"] == {"m": "1"} and head["ContentType"] == "x/y"
    assert body("parts") == b"".join(parts)
    second = S3.get_object(Bucket=BUCKET, Key="parts", PartNumber=2)
    assert second["Body"].read() == parts[1] and second["PartsCount"] == 3
    assert body("parts", Range=f"bytes={(5 << 20) - 2}-{(5 << 20) + 1}") == parts[0][-2:] + parts[1][:2]
    attributes = S3.get_object_attributes(Bucket=BUCKET, Key="parts", ObjectAttributes=["ObjectParts", "ObjectSize", "ETag"])
    assert attributes["ObjectParts"]["TotalPartsCount"] == 3 and attributes["ObjectSize"] == sum(map(len, parts)), attributes


@check
def multipart_with_full_object_checksums():
    parts = [data(5 << 20), data(1000)]
    for algorithm, kind in [("CRC32", "FULL_OBJECT"), ("CRC32", "COMPOSITE"), ("SHA256", "COMPOSITE")]:
        upload = S3.create_multipart_upload(Bucket=BUCKET, Key="sums", ChecksumAlgorithm=algorithm, ChecksumType=kind)["UploadId"]
        done = []
        for number, part in enumerate(parts, 1):
            answer = S3.upload_part(Bucket=BUCKET, Key="sums", UploadId=upload, PartNumber=number, Body=part, ChecksumAlgorithm=algorithm)
            field = "Checksum" + algorithm
            done.append({"PartNumber": number, "ETag": answer["ETag"], field: answer[field]})
        answer = S3.complete_multipart_upload(Bucket=BUCKET, Key="sums", UploadId=upload, MultipartUpload={"Parts": done})
        head = S3.head_object(Bucket=BUCKET, Key="sums", ChecksumMode="ENABLED")
        value = head["Checksum" + algorithm]
        if kind == "FULL_OBJECT":
            assert value == base64.b64encode(zlib.crc32(b"".join(parts)).to_bytes(4, "big")).decode(), value
        else:
            assert value.endswith("-2"), value
        assert head["ChecksumType"] == kind, head


@check
def part_copies_and_aborts():
    content = data(6 << 20)
    S3.put_object(Bucket=BUCKET, Key="source", Body=content)
    upload = S3.create_multipart_upload(Bucket=BUCKET, Key="pieces")["UploadId"]
    source = {"Bucket": BUCKET, "Key": "source"}
    first = S3.upload_part_copy(Bucket=BUCKET, Key="pieces", UploadId=upload, PartNumber=1, CopySource=source)["CopyPartResult"]["ETag"]
    second = S3.upload_part_copy(Bucket=BUCKET, Key="pieces", UploadId=upload, PartNumber=2, CopySource=source,
                                 CopySourceRange="bytes=1000-1999")["CopyPartResult"]["ETag"]
    parts = [{"PartNumber": 1, "ETag": first}, {"PartNumber": 2, "ETag": second}]
    S3.complete_multipart_upload(Bucket=BUCKET, Key="pieces", UploadId=upload, MultipartUpload={"Parts": parts})
    assert body("pieces") == content + content[1000:2000]
    upload = S3.create_multipart_upload(Bucket=BUCKET, Key="aborted")["UploadId"]
    S3.upload_part(Bucket=BUCKET, Key="aborted", UploadId=upload, PartNumber=1, Body=b"x")
    S3.abort_multipart_upload(Bucket=BUCKET, Key="aborted", UploadId=upload)
    refused(404, "NoSuchUpload", S3.list_parts, Bucket=BUCKET, Key="aborted", UploadId=upload)
    refused(404, "NoSuchKey", S3.get_object, Bucket=BUCKET, Key="aborted")


@check
def transfers_of_the_high_level_client():
    content = data(20 << 20)
    config = boto3.s3.transfer.TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20, max_concurrency=4)
    S3.upload_fileobj(io.BytesIO(content), BUCKET, "transfer", Config=config)
    assert S3.head_object(Bucket=BUCKET, Key="transfer")["ETag"].endswith('-4"')
    target = io.BytesIO()
    S3.download_fileobj(BUCKET, "transfer", target, Config=config)
    assert target.getvalue() == content


@check
def listings():
    keys = sorted([f"list/{a}/{n:03}" for a in "abc" for n in range(40)] + ["list/a", "list/a b", "list/ä", "list/z+", "list/%41", "list//x", "list/&<>"],
                  key=lambda k: k.encode())
    for key in keys:
        S3.put_object(Bucket=BUCKET, Key=key, Body=b"1")
    paged = [o["Key"] for page in S3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix="list/", PaginationConfig={"PageSize": 7})
             for o in page.get("Contents", [])]
    assert paged == keys, set(paged) ^ set(keys)
    paged = [o["Key"] for page in S3.get_paginator("list_objects").paginate(Bucket=BUCKET, Prefix="list/", PaginationConfig={"PageSize": 7})
             for o in page.get("Contents", [])]
    assert paged == keys
    top = S3.list_objects_v2(Bucket=BUCKET, Prefix="list/", Delimiter="/")
    assert [p["Prefix"] for p in top["CommonPrefixes"]] == ["list//", "list/a/", "list/b/", "list/c/"], top["CommonPrefixes"]
    assert all(o["ETag"].startswith('"') and o["Size"] == 1 for o in top["Contents"])
    prefixes, token = [], {}
    while True:
        page = S3.list_objects_v2(Bucket=BUCKET, Prefix="list/", Delimiter="/", MaxKeys=1, **token)
        prefixes += [p["Prefix"] for p in page.get("CommonPrefixes", [])] + [o["Key"] for o in page.get("Contents", [])]
        if not page["IsTruncated"]:
            break
        token = {"ContinuationToken": page["NextContinuationToken"]}
    assert len(prefixes) == 4 + 6, prefixes
    after = S3.list_objects_v2(Bucket=BUCKET, Prefix="list/", StartAfter="list/b/020")
    assert after["Contents"][0]["Key"] == "list/b/021"
    assert S3.list_objects_v2(Bucket=BUCKET, Prefix="list/", MaxKeys=0).get("Contents") is None
    assert S3.list_objects_v2(Bucket=BUCKET, Prefix="list/", Delimiter="")["KeyCount"] == len(keys)
    assert "Owner" in S3.list_objects_v2(Bucket=BUCKET, Prefix="list/a", FetchOwner=True)["Contents"][0]


@check
def tricky_keys():
    for key in ["a//b", "a/./b", "a/../b", "..", ".", "/lead", "trail/", "a b+c", "q?x=y&z#f", "%2F%252F", "ünï/日本/😀", "k" * 1024, "quote\"'`", "tab\tkey", "back\\slash",
                "*", "a:b@c!$&'()*+,;=", "new\nline"]:
        S3.put_object(Bucket=BUCKET, Key=key, Body=key.encode())
        assert body(key) == key.encode(), key
        found = [o["Key"] for o in S3.list_objects_v2(Bucket=BUCKET, Prefix=key).get("Contents", [])]
        assert key in found, (key, found)
        S3.delete_object(Bucket=BUCKET, Key=key)
        refused(404, "NoSuchKey", S3.get_object, Bucket=BUCKET, Key=key)
    refused(400, "KeyTooLongError", S3.put_object, Bucket=BUCKET, Key="k" * 1025, Body=b"")


@check
def deletes():
    S3.delete_object(Bucket=BUCKET, Key="never there")
    for n in range(1000):
        if n % 10 == 0:
            S3.put_object(Bucket=BUCKET, Key=f"del/{n}", Body=b"1")
    answer = S3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": f"del/{n}"} for n in range(1000)]})
    assert len(answer["Deleted"]) == 1000 and "Errors" not in answer
    assert S3.list_objects_v2(Bucket=BUCKET, Prefix="del/")["KeyCount"] == 0
    quiet = S3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": "del/<&>"}], "Quiet": True})
    assert "Deleted" not in quiet
    refused(400, "MalformedXML", S3.delete_objects, Bucket=BUCKET, Delete={"Objects": [{"Key": str(n)} for n in range(1001)]})


@check
def tags():
    S3.put_object(Bucket=BUCKET, Key="tags", Body=b"x", Tagging="a=1&b=two%20words")
    assert S3.get_object_tagging(Bucket=BUCKET, Key="tags")["TagSet"] == [{"Key": "a", "Value": "1"}, {"Key": "b", "Value": "two words"}]
    assert S3.get_object(Bucket=BUCKET, Key="tags")["TagCount"] == 2
    S3.put_object_tagging(Bucket=BUCKET, Key="tags", Tagging={"TagSet": [{"Key": "ü", "Value": ""}]})
    assert S3.get_object_tagging(Bucket=BUCKET, Key="tags")["TagSet"] == [{"Key": "ü", "Value": ""}]
    S3.delete_object_tagging(Bucket=BUCKET, Key="tags")
    assert S3.get_object_tagging(Bucket=BUCKET, Key="tags")["TagSet"] == []


@check
def presigned_urls():
    content = data(50_000)
    for version in ["s3", "s3v4"]:
        signer = client(signature_version=version)
        url = signer.generate_presigned_url("put_object", Params={"Bucket": BUCKET, "Key": f"signed ü/{version}"}, ExpiresIn=60)
        status, text = url_open(url, "PUT", content, {"Content-Type": ""})
        assert status == 200, (version, status, text)
        url = signer.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": f"signed ü/{version}", "ResponseContentType": "a/b"}, ExpiresIn=60)
        assert url_open(url) == (200, content), version
        assert url_open(url.replace("signed", "sign3d"))[0] == 403, version
        status, text = url_open(url, "DELETE")
        assert status == 403 and b"SignatureDoesNotMatch" in text, (version, status, text)
    expired = client(signature_version="s3v4").generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": "signed ü/s3"}, ExpiresIn=1)
    import time
    time.sleep(2.5)
    assert url_open(expired)[0] == 403


@check
def what_is_not_there_says_so():
    refused(404, "NoSuchKey", S3.get_object, Bucket=BUCKET, Key="nowhere")
    refused(404, "404", S3.head_object, Bucket=BUCKET, Key="list/b")
    refused(404, "NoSuchBucket", S3.list_objects_v2, Bucket="nowhere-at-all")
    refused(409, "BucketNotEmpty", S3.delete_bucket, Bucket=BUCKET)
    refused(501, "NotImplemented", S3.put_bucket_website, Bucket=BUCKET, WebsiteConfiguration={"IndexDocument": {"Suffix": "x"}})
    error = refused(404, "NoSuchKey", S3.get_object, Bucket=BUCKET, Key="nowhere")
    assert error.response["ResponseMetadata"]["RequestId"], error.response


def main():
    S3.create_bucket(Bucket=BUCKET)
    passed, failed = 0, 0
    for function in CHECKS:
        try:
            function()
            passed += 1
            print(f"ok      {function.__name__}")
        except Exception:
            failed += 1
            print(f"FAILED  {function.__name__}\n{traceback.format_exc()}")
    print(f"boto3: {passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
