//! Documents that are too many, too deep, too large, or none.

use super::{BUCKET, Case, Ground, OBJECT};
use crate::raw::{Request, md5_base64, path_of};

const MALFORMED: &[(u16, &str)] = &[(400, "MalformedXML")];

pub fn cases(ground: &Ground) -> Vec<Case> {
    let delete = |body: &[u8]| {
        ground.sign(Request::new("POST", &format!("/{BUCKET}")).query("delete", "").header("content-md5", &md5_base64(body)).body(body))
    };
    let create = |body: &[u8]| ground.sign(Request::new("PUT", "/new-bucket").body(body));
    let tag = |body: &[u8]| {
        ground.sign(Request::new("PUT", &path_of(BUCKET, OBJECT)).query("tagging", "").header("content-md5", &md5_base64(body)).body(body))
    };
    let keys = |n: usize| {
        let objects: String = (0..n).map(|n| format!("<Object><Key>k{n}</Key></Object>")).collect();
        format!("<Delete>{objects}</Delete>").into_bytes()
    };
    let dtd = b"<!DOCTYPE d [<!ENTITY e \"exists\">]><Delete><Object><Key>&e;</Key></Object></Delete>";
    let billion = b"<!DOCTYPE d [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;&a;&a;&a;&a;\"><!ENTITY c \"&b;&b;&b;&b;&b;&b;\">]><Delete><Object><Key>&c;</Key></Object></Delete>";
    let deep = [b"<Delete>".repeat(10_000), b"</Delete>".repeat(10_000)].concat();
    let huge = [b"<Delete><Object><Key>".as_slice(), &vec![b'k'; 9 << 20], b"</Key></Object></Delete>"].concat();
    let eleven: String = (0..11).map(|n| format!("<Tag><Key>k{n}</Key><Value>v</Value></Tag>")).collect();
    let eleven = format!("<Tagging><TagSet>{eleven}</TagSet></Tagging>");
    let wrong_md5 =
        Request::new("POST", &format!("/{BUCKET}")).query("delete", "").header("content-md5", &md5_base64(b"other")).body(&keys(1));
    vec![
        Case::new("1,001 keys deleted at once", delete(&keys(1_001)), MALFORMED),
        Case::new("no keys deleted", delete(&keys(0)), MALFORMED),
        Case::new("a DTD", delete(dtd), MALFORMED),
        Case::new("entities that multiply", delete(billion), MALFORMED),
        Case::new("10,000 elements deep", delete(&deep), MALFORMED),
        Case::new("a document of 9 MiB", delete(&huge), &[(400, "MalformedXML"), (400, "EntityTooLarge"), (413, "EntityTooLarge")]),
        Case::new("a document that breaks off", delete(b"<Delete><Object><Key>exi"), MALFORMED),
        Case::new("a document that is none", delete(b"exists"), MALFORMED),
        Case::new("an empty document", delete(b""), &[(400, "MalformedXML"), (400, "MissingRequestBodyError")]),
        Case::new("a document that is not UTF-8", delete(b"<Delete><Object><Key>\xff\xfe</Key></Object></Delete>"), MALFORMED),
        Case::new("another document than asked for", delete(b"<Tagging><TagSet/></Tagging>"), MALFORMED),
        Case::new("a deletion with a wrong Content-MD5", ground.sign(wrong_md5), &[(400, "BadDigest")]),
        Case::new("a bucket's document that is none", create(b"region: here"), MALFORMED),
        Case::new(
            "a bucket in a region that can't be",
            create(b"<CreateBucketConfiguration><LocationConstraint>not a region!</LocationConstraint></CreateBucketConfiguration>"),
            &[(400, "InvalidLocationConstraint")],
        ),
        Case::new("a bucket's document with a DTD", create(b"<!DOCTYPE d []><CreateBucketConfiguration/>"), MALFORMED),
        Case::new("eleven tags in a document", tag(eleven.as_bytes()), &[(400, "InvalidTag"), (400, "BadRequest"), (400, "MalformedXML")]),
        Case::new("tags that are no document", tag(b"a=b"), MALFORMED),
    ]
}
