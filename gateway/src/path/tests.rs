use super::fake::{noise, quiet, rig, rig_with};
use super::*;

#[tokio::test]
async fn a_code_that_does_not_exist_is_an_error_at_the_start() {
    let rig = rig().await;
    let settings = Settings { k: 0, ..quiet() };
    let started = DataPath::new(settings, rig.metadata.clone(), crate::roster::Roster::default(), rig.keys.clone());
    assert!(matches!(started, Err(StartError::Code(_))));
}

#[tokio::test]
async fn shutdown_ends_every_worker_and_aborts_what_was_dropped() {
    let rig = rig_with(quiet(), 6).await;
    drop(rig.store(&noise(300_000, 1)).await.unwrap());
    rig.path.shutdown().await;
    assert_eq!(rig.intents().await, 0);
}
