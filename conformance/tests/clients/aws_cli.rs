//! The AWS command line: s3 (transfers in parts, checksums by default) and s3api.

use super::Ground;
use conformance::server::Credential;
use conformance::tools::{client_command, compare_trees, run, venv_program};
use std::fs;
use std::path::Path;

fn aws(ground: &Ground, arguments: &[&str]) -> Result<String, String> {
    let python = venv_program("python");
    let mut command = client_command(&python, &ground.server, &Credential::root(), &ground.home);
    run(command.arg(venv_program("aws")).args(arguments))
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[test]
fn aws_s3_copies_syncs_lists_and_removes() {
    let ground = Ground::new();
    aws(&ground, &["s3", "mb", "s3://cli"]).unwrap();
    aws(&ground, &["s3", "sync", &text(&ground.tree), "s3://cli/tree"]).unwrap();
    let again = aws(&ground, &["s3", "sync", &text(&ground.tree), "s3://cli/tree"]).unwrap();
    assert!(!again.contains("upload:"), "a second sync uploads nothing: {again}");
    let back = ground.path("back");
    aws(&ground, &["s3", "sync", "s3://cli/tree", &text(&back)]).unwrap();
    assert_eq!(compare_trees(&ground.tree, &back), Vec::<String>::new());
    let listed = aws(&ground, &["s3", "ls", "--recursive", "s3://cli/"]).unwrap();
    assert!(listed.contains("tree/folder/ü/ö ä.txt") && listed.contains("tree/folder.d/日本語"), "{listed}");
    let top = aws(&ground, &["s3", "ls", "s3://cli/tree/"]).unwrap();
    assert!(top.contains("PRE folder/") && top.contains("PRE deep/") && top.contains("one byte"), "{top}");
    aws(&ground, &["s3", "cp", "s3://cli/tree/large.bin", "s3://cli/copied.bin"]).unwrap();
    aws(&ground, &["s3", "mv", "s3://cli/copied.bin", "s3://cli/moved.bin"]).unwrap();
    let down = ground.path("moved.bin");
    aws(&ground, &["s3", "cp", "s3://cli/moved.bin", &text(&down)]).unwrap();
    assert!(fs::read(&down).unwrap() == fs::read(ground.tree.join("large.bin")).unwrap());
    aws(&ground, &["s3", "rm", "--recursive", "s3://cli/"]).unwrap();
    let left = aws(&ground, &["s3api", "list-objects-v2", "--bucket", "cli"]).unwrap();
    assert!(!left.contains("\"Key\""), "{left}");
    aws(&ground, &["s3", "rb", "s3://cli"]).unwrap();
}

#[test]
fn aws_s3api_checks_checksums_and_its_presigned_urls_work() {
    let ground = Ground::new();
    let body = text(&ground.tree.join("folder/inline+1"));
    aws(&ground, &["s3api", "create-bucket", "--bucket", "api"]).unwrap();
    for algorithm in ["CRC32", "CRC32C", "SHA1", "SHA256"] {
        let key = format!("sum-{algorithm}");
        if algorithm == "CRC32C" && !has_crt(&ground) {
            continue;
        }
        aws(&ground, &["s3api", "put-object", "--bucket", "api", "--key", &key, "--body", &body, "--checksum-algorithm", algorithm])
            .unwrap();
        let head = aws(&ground, &["s3api", "head-object", "--bucket", "api", "--key", &key, "--checksum-mode", "ENABLED"]).unwrap();
        assert!(head.contains(&format!("\"Checksum{algorithm}\"")), "{head}");
    }
    let attributes = [
        "s3api",
        "get-object-attributes",
        "--bucket",
        "api",
        "--key",
        "sum-CRC32",
        "--object-attributes",
        "ETag",
        "Checksum",
        "ObjectSize",
    ];
    let attributes = aws(&ground, &attributes).unwrap();
    assert!(attributes.contains("\"ObjectSize\": 8193") && attributes.contains("ChecksumCRC32"), "{attributes}");
    let url = aws(&ground, &["s3", "presign", "s3://api/sum-SHA256", "--expires-in", "120"]).unwrap();
    let target = url.trim().strip_prefix(ground.server.endpoint()).expect(&url).to_owned();
    let request = format!("GET {target} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", ground.server.address());
    let answer = conformance::raw::exchange(ground.server.address(), request.as_bytes(), false).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.body == fs::read(&body).unwrap());
    let refused = aws(&ground, &["s3api", "get-object", "--bucket", "api", "--key", "missing", "/dev/null"]).unwrap_err();
    assert!(refused.contains("NoSuchKey"), "{refused}");
}

/// CRC32C needs a native library that pip may not have.
fn has_crt(ground: &Ground) -> bool {
    let python = venv_program("python");
    let mut command = client_command(&python, &ground.server, &Credential::root(), &ground.home);
    run(command.args(["-c", "import awscrt"])).is_ok()
}
