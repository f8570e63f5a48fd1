use super::*;
use crate::front::guard::resource::Operation;
use http::Request;

fn rules() -> Rules {
    Rules { region: "us-east-1".into(), domain: None, allow_signature_v2: true, signed_chunk_bytes: 1 << 20 }
}

fn parts(method: &str, target: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn shape(target: &str, host: &str, domain: Option<&str>) -> Shape {
    Shape::of(&parts("GET", target, &[("host", host)]), domain).unwrap()
}

#[test]
fn a_path_names_root_bucket_or_object_as_s3s_reads_it() {
    for (target, expected) in [
        ("/", Shape::Root),
        ("/b", Shape::Bucket),
        ("/b/", Shape::Bucket),
        ("/b/k", Shape::Object),
        ("/b//", Shape::Object),
        ("/b%2Fk", Shape::Object),
    ] {
        assert_eq!(shape(target, "127.0.0.1", None), expected, "{target}");
        let path = decode_path(target);
        let parsed = s3s::path::parse_path_style_with_validation(&path, &Anything).unwrap();
        let same = match expected {
            Shape::Root => parsed.is_root(),
            Shape::Bucket => parsed.as_bucket().is_some(),
            Shape::Object => parsed.as_object().is_some(),
        };
        assert!(same, "{target}: s3s reads {parsed:?}");
    }
    assert_eq!(shape("/", "b.s3.test", Some("s3.test")), Shape::Bucket);
    assert_eq!(shape("/k", "b.s3.test", Some("s3.test")), Shape::Object);
    assert_eq!(shape("/b", "s3.test", Some("s3.test")), Shape::Bucket);
}

fn decode_path(target: &str) -> String {
    crate::front::query::decode(target, false).unwrap()
}

struct Anything;

impl s3s::validation::NameValidation for Anything {
    fn validate_bucket_name(&self, _name: &str) -> bool {
        true
    }
}

#[test]
fn only_bodies_of_objects_and_parts_are_data() {
    let operation = |method: &str, shape, query: &str| {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        resource::check(&method, shape, &Query::parse(Some(query)).unwrap()).unwrap()
    };
    assert_eq!(operation("PUT", Shape::Object, ""), Operation::Data);
    assert_eq!(operation("PUT", Shape::Object, "partNumber=1&uploadId=x"), Operation::Data);
    assert_eq!(operation("PUT", Shape::Object, "tagging"), Operation::Document);
    assert_eq!(operation("PUT", Shape::Bucket, ""), Operation::Document);
    assert_eq!(operation("POST", Shape::Bucket, "delete"), Operation::Document);
    assert_eq!(operation("POST", Shape::Object, "uploads"), Operation::Document);
    assert_eq!(operation("GET", Shape::Object, "acl"), Operation::Bodyless);
}

#[test]
fn the_form_is_judged_before_anything_is_looked_up() {
    let kind = |parts: &Parts| judge(parts, &rules()).err().map(|fault| fault.kind);
    assert_eq!(kind(&parts("GET", "/b/k", &[])), Some(Kind::AccessDenied));
    assert_eq!(kind(&parts("PATCH", "/b/k", &[])), Some(Kind::MethodNotAllowed));
    assert_eq!(kind(&parts("OPTIONS", "/b/k", &[("origin", "http://a")])), Some(Kind::AccessForbidden));
    assert_eq!(kind(&parts("GET", "/b/%FF", &[])), Some(Kind::InvalidUri));
    assert_eq!(kind(&parts("POST", "/b", &[("content-type", "Multipart/Form-Data; boundary=x")])), Some(Kind::NotImplemented));
    let signed = format!(
        "AWS4-HMAC-SHA256 Credential=A/20260101/us-east-1/s3/aws4_request, SignedHeaders=host;x-amz-date, Signature={}",
        "a".repeat(64)
    );
    let headers = [("authorization", signed.as_str()), ("x-amz-date", "20260101T000000Z"), ("content-length", "5")];
    assert!(judge(&parts("PUT", "/b/k", &headers), &rules()).is_ok());
    assert_eq!(kind(&parts("PUT", "/b/k", &headers[..2])), Some(Kind::MissingContentLength));
    let large = [headers[0], headers[1], ("content-length", "99999999999")];
    assert_eq!(kind(&parts("POST", "/b?delete", &large)), Some(Kind::MalformedXml));
}

#[test]
fn dates_that_do_not_exist_are_no_dates() {
    let signed =
        format!("AWS4-HMAC-SHA256 Credential=A/20260101/us-east-1/s3/aws4_request,SignedHeaders=host,Signature={}", "a".repeat(64));
    for date in ["20261301T000000Z", "20260132T000000Z", "20260101T240000Z", "20260101T006000Z", "2026-01-01T00:00", "", "00000101T000000Z"]
    {
        let parts = parts("GET", "/b", &[("authorization", &signed), ("x-amz-date", date)]);
        assert_eq!(judge(&parts, &rules()).err().map(|fault| fault.kind), Some(Kind::AccessDenied), "{date}");
    }
}
