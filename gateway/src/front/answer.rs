//! What every answer carries, and the form of the front's own refusals.

use crate::front::fault::Fault;
use crate::front::observe::RequestId;
use bytes::Bytes;
use http::{HeaderValue, Method, Response, header};
use s3s::dto::{Timestamp, TimestampFormat};
use std::time::SystemTime;

/// Error documents are this small; a larger body is not one.
const ERROR_BYTES: usize = 64 << 10;

/// A refusal as S3 words it.
pub fn refusal(fault: &Fault, method: &Method) -> Response<s3s::Body> {
    let (code, status) = fault.kind.answer();
    let region = fault.region.as_ref().map_or_else(String::new, |region| format!("<Region>{}</Region>", escape(region)));
    let document = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{}</Message>{region}</Error>",
        escape(&fault.message)
    );
    let body = if method == Method::HEAD { s3s::Body::empty() } else { s3s::Body::from(document) };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    response
}

/// Gives an answer its ids and, if it is an error, the fields that S3's errors have. Returns S3's code of an error.
///
/// - `path`: as the client sent it, for `Resource`.
pub fn finish(response: &mut Response<s3s::Body>, id: RequestId, path: &str) -> Option<String> {
    let id = id.text();
    let is_error = response.status().is_client_error() || response.status().is_server_error();
    let code = is_error.then(|| {
        let document = response.body().bytes().filter(|document| document.len() <= ERROR_BYTES);
        let code = document.as_deref().and_then(|document| element(document, "Code"));
        if let Some(document) = document
            && let Some(full) = with_ids(&document, &id, path)
        {
            response.headers_mut().remove(header::CONTENT_LENGTH);
            *response.body_mut() = s3s::Body::from(full);
        }
        // A HEAD has no document.
        code.unwrap_or_else(|| response.status().canonical_reason().unwrap_or("Error").replace(' ', ""))
    });
    let headers = response.headers_mut();
    headers.insert(header::SERVER, HeaderValue::from_static("Breakwater"));
    if let Some(date) = date(SystemTime::now()) {
        headers.insert(header::DATE, date);
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert("x-amz-request-id", value.clone());
        headers.insert("x-amz-id-2", value);
    }
    code
}

/// As the clock says now. hyper's own goes on saying the last one after the clock was set back, until it is that late again, and SDKs sign by
/// what they read there.
fn date(now: SystemTime) -> Option<HeaderValue> {
    let mut text = Vec::with_capacity(29);
    Timestamp::from(now).format(TimestampFormat::HttpDate, &mut text).ok()?;
    HeaderValue::from_bytes(&text).ok()
}

/// The text of the first `<name>`, for names whose text has nothing to unescape.
fn element(document: &[u8], name: &str) -> Option<String> {
    let document = std::str::from_utf8(document).ok()?;
    let (_, rest) = document.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once("</")?;
    Some(text.to_string())
}

fn with_ids(document: &[u8], id: &str, path: &str) -> Option<Bytes> {
    let document = std::str::from_utf8(document).ok()?;
    let head = document.trim_end().strip_suffix("</Error>")?;
    let mut full = String::with_capacity(head.len() + path.len() + 160);
    full.push_str(head);
    if !head.contains("<Resource>") {
        full.push_str(&format!("<Resource>{}</Resource>", escape(path)));
    }
    if !head.contains("<RequestId>") {
        full.push_str(&format!("<RequestId>{id}</RequestId>"));
    }
    full.push_str(&format!("<HostId>{id}</HostId></Error>"));
    Some(Bytes::from(full))
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            letter if letter.is_control() => out.push('?'),
            letter => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::fault::Kind;

    fn text(response: &Response<s3s::Body>) -> String {
        String::from_utf8(response.body().bytes().unwrap().to_vec()).unwrap()
    }

    #[test]
    fn a_refusal_names_code_message_region_resource_and_ids() {
        let fault = Fault::new(Kind::AuthorizationHeaderMalformed, "a < b & \"c\"").expecting_region("us-east-1");
        let mut response = refusal(&fault, &Method::GET);
        let id = RequestId::next();
        assert_eq!(finish(&mut response, id, "/b/<k>").as_deref(), Some("AuthorizationHeaderMalformed"));
        let text = text(&response);
        assert!(text.contains("<Message>a &lt; b &amp; &quot;c&quot;</Message><Region>us-east-1</Region>"), "{text}");
        assert!(text.contains("<Resource>/b/&lt;k&gt;</Resource>"), "{text}");
        assert!(text.contains(&format!("<RequestId>{}</RequestId>", id.text())), "{text}");
        assert_eq!(response.headers()["x-amz-request-id"], id.text().as_str());
    }

    #[test]
    fn a_refused_head_has_no_body_and_still_its_ids() {
        let mut response = refusal(&Fault::new(Kind::AccessDenied, "no"), &Method::HEAD);
        assert_eq!(finish(&mut response, RequestId::next(), "/b").as_deref(), Some("Forbidden"));
        assert_eq!(text(&response), "");
        assert!(response.headers().contains_key("x-amz-request-id"));
    }

    #[test]
    fn the_date_is_that_of_the_clock_whichever_way_it_was_set() {
        let at = |seconds| date(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds)).unwrap();
        assert_eq!(at(1_700_000_000), "Tue, 14 Nov 2023 22:13:20 GMT");
        assert_eq!(at(1_600_000_000), "Sun, 13 Sep 2020 12:26:40 GMT");
        let mut response = Response::new(s3s::Body::empty());
        finish(&mut response, RequestId::next(), "/b");
        assert!(response.headers().contains_key(header::DATE));
    }

    #[test]
    fn an_answer_that_is_no_error_keeps_its_body() {
        let mut response = Response::new(s3s::Body::from(String::from("<Error>")));
        assert_eq!(finish(&mut response, RequestId::next(), "/b"), None);
        assert_eq!(text(&response), "<Error>");
    }
}
