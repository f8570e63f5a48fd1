//! Requests by nobody, by the wrong one, at the wrong time, or not signed for what they say.

use super::{BUCKET, Case, Ground, OBJECT};
use crate::raw::{EMPTY_SHA256, Request, Signer, path_of};
use crate::server::Credential;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const MALFORMED: &[(u16, &str)] = &[(400, "AuthorizationHeaderMalformed")];
const QUERY: &[(u16, &str)] = &[(400, "AuthorizationQueryParametersError")];
const MISMATCH: &[(u16, &str)] = &[(403, "SignatureDoesNotMatch")];
const DENIED: &[(u16, &str)] = &[(403, "AccessDenied")];

fn get() -> Request {
    Request::new("GET", &path_of(BUCKET, OBJECT))
}

fn put() -> Request {
    Request::new("PUT", &path_of(BUCKET, "new")).body(b"never to be stored")
}

/// Rewrites the Authorization header of a signed request.
fn tamper(request: Request, with: impl Fn(&str) -> String) -> Request {
    let old = request.headers.iter().find(|(n, _)| n == "authorization").map(|(_, v)| v.clone()).unwrap_or_default();
    request.set_header("authorization", &with(&old))
}

fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

pub fn cases(ground: &Ground) -> Vec<Case> {
    let mut cases = by_header(ground);
    cases.extend(by_query(ground));
    cases.extend(unsigned_parts(ground));
    cases.extend(by_another(ground));
    cases
}

fn by_header(ground: &Ground) -> Vec<Case> {
    let host = ground.host;
    let signer = |change: &dyn Fn(&mut Signer)| {
        let mut signer = Signer::new(&ground.root);
        change(&mut signer);
        get().signed_as(&signer, host, EMPTY_SHA256)
    };
    let unknown = Credential { access_key: "AKIAUNKNOWN".into(), secret_key: "whatever".into() };
    let wrong = Credential { secret_key: "not the secret".into(), ..ground.root.clone() };
    let minutes = |n: u64| Duration::from_secs(n * 60);
    vec![
        Case::new("a secret that is not the key's", get().signed(&wrong, host), MISMATCH),
        Case::new("a PUT with a wrong secret", put().signed(&wrong, host), MISMATCH),
        Case::new("an access key nobody has", get().signed(&unknown, host), &[(403, "InvalidAccessKeyId")]),
        Case::new("an anonymous GET", get().header("host", &host.to_string()), DENIED),
        Case::new("an anonymous PUT", put().header("host", &host.to_string()), DENIED),
        Case::new("an anonymous listing of buckets", Request::new("GET", "/").header("host", &host.to_string()), DENIED),
        Case::new("a clock 20 minutes behind", signer(&|s| s.time -= minutes(20)), &[(403, "RequestTimeTooSkewed")]),
        Case::new("a clock 20 minutes ahead", signer(&|s| s.time += minutes(20)), &[(403, "RequestTimeTooSkewed")]),
        Case::new("a scope of another region", signer(&|s| s.region = "eu-west-7".into()), MALFORMED),
        Case::new("a scope of another service", signer(&|s| s.service = "ec2".into()), MALFORMED),
        Case::new("a garbled Authorization", tamper(ground.sign(get()), |_| "AWS4-HMAC-SHA256 garbage".into()), MALFORMED),
        Case::new(
            "an Authorization without its signature",
            tamper(ground.sign(get()), |a| a.split(", Signature").next().unwrap_or("").into()),
            MALFORMED,
        ),
        Case::new("a credential without a scope", tamper(ground.sign(get()), |a| a.replace("/aws4_request", "")), MALFORMED),
        Case::new(
            "an Authorization of an unknown kind",
            get().header("host", &host.to_string()).header("authorization", "Bearer x"),
            MALFORMED,
        ),
        Case::new(
            "an Authorization of Version 2 without its signature",
            get().header("host", &host.to_string()).header("authorization", "AWS HAHAHA"),
            &[(400, "InvalidArgument")],
        ),
        Case::new("an empty Authorization", get().header("host", &host.to_string()).header("authorization", ""), DENIED),
        Case::new("a Version 2 signature of an unknown date", by_version_2(ground, "yesterday"), DENIED),
        Case::new(
            "a Version 2 signature of long ago",
            by_version_2(ground, "Tue, 07 Jul 2010 21:53:04 GMT"),
            &[(403, "RequestTimeTooSkewed")],
        ),
        Case::new("a signature cut short", tamper(ground.sign(get()), |a| a[..a.len() - 4].into()), &[MISMATCH[0], MALFORMED[0]]),
        Case::new("another path than was signed", Request { path: path_of(BUCKET, "other"), ..ground.sign(get()) }, MISMATCH),
        Case::new("another method than was signed", Request { method: "DELETE".into(), ..ground.sign(get()) }, MISMATCH),
        Case::new("a query that was not signed", ground.sign(get()).query("partNumber", "1"), MISMATCH),
        Case::new(
            "no date at all",
            without_date(ground),
            &[(403, "AccessDenied"), (400, "AuthorizationHeaderMalformed"), (403, "MissingSecurityHeader"), (400, "MissingSecurityHeader")],
        ),
        Case::new("no payload hash header", without_hash(ground), &[(400, "InvalidRequest"), (400, "MissingSecurityHeader")]),
        Case::new(
            "a payload hash that is none",
            get().signed_as(&Signer::new(&ground.root), host, "nonsense"),
            &[(400, "InvalidArgument"), (400, "InvalidRequest"), (400, "XAmzContentSHA256Mismatch")],
        ),
    ]
}

fn by_version_2(ground: &Ground, date: &str) -> Request {
    let authorization = format!("AWS {}:AAAAAAAAAAAAAAAAAAAAAAAAAAA=", ground.root.access_key);
    get().header("host", &ground.host.to_string()).header("date", date).header("authorization", &authorization)
}

fn without_date(ground: &Ground) -> Request {
    let mut request = ground.sign(get());
    request.headers.retain(|(n, _)| n != "x-amz-date");
    tamper(request, |a| a.replace(";x-amz-date", ""))
}

fn without_hash(ground: &Ground) -> Request {
    let mut request = ground.sign(get());
    request.headers.retain(|(n, _)| n != "x-amz-content-sha256");
    tamper(request, |a| a.replace("x-amz-content-sha256;", ""))
}

fn by_query(ground: &Ground) -> Vec<Case> {
    let host = ground.host;
    let signer = Signer::new(&ground.root);
    let earlier = Signer { time: SystemTime::now() - Duration::from_secs(600), ..signer.clone() };
    let later = Signer { time: SystemTime::now() + Duration::from_secs(3_600), ..signer.clone() };
    let wrong = Signer { credential: Credential { secret_key: "not the secret".into(), ..ground.root.clone() }, ..signer.clone() };
    let unknown = Credential { access_key: "AKIAUNKNOWN".into(), secret_key: "whatever".into() };
    let wrong_v2 = Credential { secret_key: "not the secret".into(), ..ground.root.clone() };
    let elsewhere = Signer { region: "eu-west-7".into(), ..signer.clone() };
    let change = |name: &str, value: &str| {
        let mut request = get().presigned(&signer, host, "3600");
        request.query.iter_mut().filter(|(n, _)| n == name).for_each(|(_, v)| *v = value.into());
        request
    };
    let drop = |name: &str| {
        let mut request = get().presigned(&signer, host, "3600");
        request.query.retain(|(n, _)| n != name);
        request
    };
    vec![
        Case::new("a presigned URL for eight days", get().presigned(&signer, host, "604801"), QUERY),
        Case::new("a presigned URL for a negative time", get().presigned(&signer, host, "-1"), QUERY),
        Case::new("a presigned URL for a time that is no number", get().presigned(&signer, host, "soon"), QUERY),
        Case::new("a presigned URL for a time beyond counting", get().presigned(&signer, host, "99999999999999999999"), QUERY),
        Case::new("an expired presigned URL", get().presigned(&earlier, host, "60"), DENIED),
        Case::new(
            "a presigned URL of the future",
            get().presigned(&later, host, "3600"),
            &[(403, "AccessDenied"), (403, "RequestTimeTooSkewed")],
        ),
        Case::new("a presigned URL with a wrong secret", get().presigned(&wrong, host, "3600"), MISMATCH),
        Case::new("a presigned URL of another region", get().presigned(&elsewhere, host, "3600"), &[QUERY[0], MALFORMED[0]]),
        Case::new("a presigned URL of an unknown algorithm", change("X-Amz-Algorithm", "AWS5-ROT13"), QUERY),
        Case::new("a presigned URL with a garbled credential", change("X-Amz-Credential", "nobody"), QUERY),
        Case::new("a presigned URL with a garbled date", change("X-Amz-Date", "yesterday"), QUERY),
        Case::new("a presigned URL without its date", drop("X-Amz-Date"), QUERY),
        Case::new("a presigned URL without its signature", drop("X-Amz-Signature"), &[QUERY[0], DENIED[0]]),
        Case::new("an old-style URL with a wrong secret", get().presigned_v2(&wrong_v2, host, seconds_now() + 3600), MISMATCH),
        Case::new(
            "an old-style URL of an unknown key",
            get().presigned_v2(&unknown, host, seconds_now() + 3600),
            &[(403, "InvalidAccessKeyId")],
        ),
        Case::new("an expired old-style URL", get().presigned_v2(&ground.root, host, seconds_now() - 60), DENIED),
        Case::new(
            "a signature in the header and in the query",
            get().presigned(&signer, host, "3600").signed(&ground.root, host),
            &[(400, "InvalidArgument"), (400, "InvalidRequest")],
        ),
    ]
}

/// What a signature does not cover must not change what is done.
fn unsigned_parts(ground: &Ground) -> Vec<Case> {
    let host = ground.host;
    let signer = Signer::new(&ground.root);
    let source = format!("{BUCKET}/{OBJECT}");
    let refused: &[(u16, &str)] = &[(403, "AccessDenied"), (403, "SignatureDoesNotMatch")];
    let presigned = || Request::new("PUT", &path_of(BUCKET, "new")).presigned(&signer, host, "3600");
    vec![
        Case::new("a presigned PUT with an unsigned copy source", presigned().header("x-amz-copy-source", &source), refused),
        Case::new("a presigned PUT with an unsigned ACL", presigned().header("x-amz-acl", "public-read"), refused),
        Case::new("a presigned PUT with unsigned metadata", presigned().header("x-amz-meta-who", "me"), refused),
        Case::new("a signed PUT with an unsigned copy source", ground.sign(put()).header("x-amz-copy-source", &source), refused),
        Case::new("a signed PUT with unsigned tags", ground.sign(put()).header("x-amz-tagging", "a=b"), refused),
    ]
}

/// Another tenant's bucket is not there to be used, nor its name to be had.
fn by_another(ground: &Ground) -> Vec<Case> {
    let sign = |r: Request| r.signed(&ground.stranger, ground.host);
    let source = format!("{BUCKET}/{OBJECT}");
    vec![
        Case::new("another tenant reads", sign(get()), DENIED),
        Case::new("another tenant writes", sign(put()), DENIED),
        Case::new("another tenant lists", sign(Request::new("GET", &format!("/{BUCKET}")).query("list-type", "2")), DENIED),
        Case::new("another tenant deletes", sign(Request::new("DELETE", &path_of(BUCKET, OBJECT))), DENIED),
        Case::new("another tenant deletes the bucket", sign(Request::new("DELETE", &format!("/{BUCKET}"))), DENIED),
        Case::new("another tenant heads the bucket", sign(Request::new("HEAD", &format!("/{BUCKET}"))), &[(403, "")]),
        Case::new(
            "another tenant creates the bucket again",
            sign(Request::new("PUT", &format!("/{BUCKET}"))),
            &[(409, "BucketAlreadyExists")],
        ),
        Case::new(
            "another tenant copies out of it",
            sign(Request::new("PUT", "/nowhere/new").header("x-amz-copy-source", &source)),
            &[(403, "AccessDenied"), (404, "NoSuchBucket")],
        ),
        Case::new(
            "another tenant sees the upload's parts",
            sign(Request::new("GET", &path_of(BUCKET, "upload")).query("uploadId", &ground.upload)),
            DENIED,
        ),
    ]
}
