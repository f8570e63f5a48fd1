//! rclone: sync, check, multipart, move, purge.

use super::Ground;
use conformance::server::Credential;
use conformance::tools::{client_command, compare_trees, program, run};
use std::fs;

/// Runs rclone with a remote named `bw`.
fn rclone(ground: &Ground, arguments: &[&str]) -> Result<String, String> {
    let credential = Credential::root();
    let config = ground.home.join("rclone.conf");
    let text = format!(
        "[bw]\ntype = s3\nprovider = Other\naccess_key_id = {}\nsecret_access_key = {}\nendpoint = {}\nregion = us-east-1\n",
        credential.access_key,
        credential.secret_key,
        ground.server.endpoint()
    );
    fs::write(&config, text).unwrap();
    let mut command = client_command(&program("rclone"), &ground.server, &credential, &ground.home);
    run(command.arg("--config").arg(&config).args(["--retries", "1", "--low-level-retries", "1"]).args(arguments))
}

#[test]
fn rclone_syncs_a_tree_up_and_down_and_finds_no_difference() {
    let ground = Ground::new();
    let tree = ground.tree.to_string_lossy().into_owned();
    rclone(&ground, &["mkdir", "bw:sync"]).unwrap();
    rclone(&ground, &["sync", &tree, "bw:sync/tree"]).unwrap();
    rclone(&ground, &["check", &tree, "bw:sync/tree"]).unwrap();
    rclone(&ground, &["check", "--download", &tree, "bw:sync/tree"]).unwrap();
    let down = ground.path("down");
    rclone(&ground, &["sync", "bw:sync/tree", &down.to_string_lossy()]).unwrap();
    assert_eq!(compare_trees(&ground.tree, &down), Vec::<String>::new());
    fs::remove_file(ground.tree.join("one byte")).unwrap();
    fs::write(ground.tree.join("empty"), b"no longer").unwrap();
    rclone(&ground, &["sync", &tree, "bw:sync/tree"]).unwrap();
    rclone(&ground, &["check", &tree, "bw:sync/tree"]).unwrap();
    let listed = rclone(&ground, &["lsf", "-R", "bw:sync/tree"]).unwrap();
    assert!(!listed.contains("one byte") && listed.contains("folder/ü/ö ä.txt"), "{listed}");
}

#[test]
fn rclone_uploads_in_parts_from_files_and_streams_and_checks_their_sums() {
    let ground = Ground::new();
    let large = ground.tree.join("large.bin").to_string_lossy().into_owned();
    let parts = ["--s3-upload-cutoff", "5M", "--s3-chunk-size", "5M", "--s3-upload-concurrency", "3"];
    rclone(&ground, &["mkdir", "bw:parts"]).unwrap();
    rclone(&ground, &[&parts[..], &["copyto", &large, "bw:parts/large.bin"]].concat()).unwrap();
    rclone(&ground, &["check", "--download", "--one-way", &ground.tree.to_string_lossy(), "bw:parts", "--include", "large.bin"]).unwrap();
    // rclone keeps the whole file's MD5 in metadata, because the ETag of a multipart object is not it.
    rclone(&ground, &["check", "--one-way", &ground.tree.to_string_lossy(), "bw:parts", "--include", "large.bin"]).unwrap();
    rclone(&ground, &["copyto", "bw:parts/large.bin", "bw:parts/copied.bin"]).unwrap();
    rclone(&ground, &["moveto", "bw:parts/copied.bin", "bw:parts/moved.bin"]).unwrap();
    let down = ground.path("moved.bin");
    rclone(&ground, &["copyto", "bw:parts/moved.bin", &down.to_string_lossy()]).unwrap();
    assert!(fs::read(&down).unwrap() == fs::read(ground.tree.join("large.bin")).unwrap());
    let listed = rclone(&ground, &["lsf", "bw:parts"]).unwrap();
    assert!(!listed.contains("copied.bin"), "{listed}");
    rclone(&ground, &["purge", "bw:parts"]).unwrap();
}
