//! Every wrong request gets its exact answer, stores nothing, and the server goes on.

use conformance::bad_input::{Ground, stall};
use conformance::server::{Server, Settings};
use std::time::Duration;

#[tokio::test]
async fn every_wrong_request_gets_its_exact_answer_and_stores_nothing() {
    let server = Server::start().unwrap();
    let ground = Ground::prepare(&server).await.unwrap();
    let before = ground.holds().await.unwrap();
    let cases = ground.cases();
    let mut wrong = Vec::new();
    for case in &cases {
        wrong.extend(ground.judge(case).err());
        let now = ground.holds().await;
        if now.as_ref() != Ok(&before) {
            wrong.push(format!("{}: the bucket changed from {before} to {now:?}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases are wrong:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[tokio::test]
async fn clients_that_stop_in_the_middle_are_closed_and_nothing_stays() {
    let config = "[limits]\nheader_seconds = 2\nbody_idle_seconds = 2\n".to_owned();
    let server = Server::start_with(Settings { config: Some(config), ..Settings::default() }).unwrap();
    let ground = Ground::prepare(&server).await.unwrap();
    let before = ground.holds().await.unwrap();
    let files = server.open_files();
    let stalled = stall::open(&ground, 10).unwrap();
    let count = stalled.len();
    assert_eq!(stall::still_open(stalled, Duration::from_secs(15)), 0, "of {count}");
    assert_eq!(ground.holds().await.unwrap(), before);
    for _ in 0..100 {
        if server.open_files() <= files + 4 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(server.open_files() <= files + 4, "{} files, {files} before", server.open_files());
}
