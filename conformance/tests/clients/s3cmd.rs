//! s3cmd: ListObjects V1, ACL and policy questions, its own multipart.

use super::Ground;
use conformance::server::Credential;
use conformance::tools::{client_command, compare_trees, program, run};
use std::fs;

fn s3cmd(ground: &Ground, arguments: &[&str]) -> Result<String, String> {
    let credential = Credential::root();
    let host = ground.server.address();
    let config = ground.home.join("s3cfg");
    let text = format!(
        "[default]\naccess_key = {}\nsecret_key = {}\nhost_base = {host}\nhost_bucket = {host}\nuse_https = False\nsignature_v2 = False\n",
        credential.access_key, credential.secret_key
    );
    fs::write(&config, text).unwrap();
    let mut command = client_command(&program("s3cmd"), &ground.server, &credential, &ground.home);
    run(command.env("LC_ALL", "C.UTF-8").arg("--config").arg(&config).arg("--no-progress").args(arguments))
}

#[test]
fn s3cmd_puts_gets_syncs_lists_asks_and_deletes() {
    let ground = Ground::new();
    let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
    s3cmd(&ground, &["mb", "s3://cmd"]).unwrap();
    let file = text(&ground.tree.join("folder/ü/ö ä.txt"));
    s3cmd(&ground, &["put", &file, "s3://cmd/one", "--add-header=x-amz-meta-who:me"]).unwrap();
    let down = ground.path("one");
    s3cmd(&ground, &["get", "s3://cmd/one", &text(&down)]).unwrap();
    assert!(fs::read(&down).unwrap() == fs::read(&file).unwrap());
    let info = s3cmd(&ground, &["info", "s3://cmd/one"]).unwrap();
    assert!(info.contains("x-amz-meta-who: me") && info.contains("70000"), "{info}");
    s3cmd(&ground, &["info", "s3://cmd"]).unwrap();
    s3cmd(&ground, &["cp", "s3://cmd/one", "s3://cmd/two"]).unwrap();
    s3cmd(&ground, &["mv", "s3://cmd/two", "s3://cmd/three"]).unwrap();
    let tree = format!("{}/", text(&ground.tree));
    s3cmd(&ground, &["sync", &tree, "s3://cmd/tree/"]).unwrap();
    let again = s3cmd(&ground, &["sync", &tree, "s3://cmd/tree/"]).unwrap();
    assert!(!again.contains("upload:"), "a second sync uploads nothing: {again}");
    let back = ground.path("back");
    fs::create_dir_all(&back).unwrap();
    s3cmd(&ground, &["sync", "s3://cmd/tree/", &format!("{}/", text(&back))]).unwrap();
    assert_eq!(compare_trees(&ground.tree, &back), Vec::<String>::new());
    let listed = s3cmd(&ground, &["ls", "s3://cmd/"]).unwrap();
    assert!(listed.contains("DIR") && listed.contains("s3://cmd/three") && !listed.contains("s3://cmd/two"), "{listed}");
    let all = s3cmd(&ground, &["ls", "--recursive", "s3://cmd/"]).unwrap();
    assert!(all.contains("s3://cmd/tree/folder.d/日本語"), "{all}");
    s3cmd(&ground, &["del", "s3://cmd/one"]).unwrap();
    s3cmd(&ground, &["del", "--recursive", "--force", "s3://cmd/"]).unwrap();
    s3cmd(&ground, &["rb", "s3://cmd"]).unwrap();
}

#[test]
fn s3cmd_uploads_in_parts_and_signs_urls_that_work() {
    let ground = Ground::new();
    let large = ground.tree.join("large.bin");
    s3cmd(&ground, &["mb", "s3://parts"]).unwrap();
    s3cmd(&ground, &["put", "--multipart-chunk-size-mb=5", &large.to_string_lossy(), "s3://parts/large"]).unwrap();
    let down = ground.path("large");
    s3cmd(&ground, &["get", "s3://parts/large", &down.to_string_lossy()]).unwrap();
    assert!(fs::read(&down).unwrap() == fs::read(&large).unwrap());
    let url = s3cmd(&ground, &["signurl", "s3://parts/large", "+300"]).unwrap();
    let target = url.trim().strip_prefix(ground.server.endpoint()).expect(&url).to_owned();
    let request = format!("GET {target} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", ground.server.address());
    let answer = conformance::raw::exchange(ground.server.address(), request.as_bytes(), false).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.body == fs::read(&large).unwrap());
}
