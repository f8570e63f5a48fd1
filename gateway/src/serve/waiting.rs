//! A server that does not serve yet: requests are held for a moment and then told to ask again, and a gateway waits for its metadata.
//!
//! ```text
//! power comes back everywhere -> gateways are up first -> S3: 503 SlowDown, /health/ready: 503, /health/live: 200
//!                             -> metadata answers      -> the same sockets serve
//! ```
//! Invariants: what time may mend is waited for without end, and it is said for whom; where everybody who is there is somebody else than
//! the papers say, no time mends that, and the start ends.
//! Not here: metadata in this process, which opens or does not.

use super::ServeError;
use super::elsewhere::Elsewhere;
use crate::boot::BootError;
use crate::boot::credentials::{ROOT_TENANT, root_query};
use crate::fleet::FleetError;
use metadata::cluster::CallError;
use spine::wire::MetadataError;
use spine::wire::root::RootQuery;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

/// How long a request waits for the server: an ordinary start is over by then.
pub const HOLD: Duration = Duration::from_secs(5);
/// After how many seconds a client is told to ask again.
pub const AGAIN: u32 = 5;
/// How long metadata may take to answer before everybody is asked how they are, and how often that is said.
const LONGEST: Duration = Duration::from_secs(2);
const SAY: Duration = Duration::from_secs(10);
/// Pause before members are asked how they are: longer than a link that failed rests.
const REST: Duration = Duration::from_secs(1);

/// What answers, once it is there; `None`: not within `longest`.
pub async fn there<T>(mut is: watch::Receiver<Option<Arc<T>>>, longest: Duration) -> Option<Arc<T>> {
    let now = is.borrow().clone();
    if now.is_some() {
        return now;
    }
    // An error: the start failed, and the process ends.
    timeout(longest, is.wait_for(Option::is_some)).await.ok()?.ok()?.clone()
}

/// Returns when metadata answers.
///
/// # Errors
/// Nobody who is there is a member of this fleet's metadata.
pub async fn for_metadata(elsewhere: &Elsewhere) -> Result<(), ServeError> {
    let metadata = elsewhere.metadata();
    let mut said: Option<Instant> = None;
    loop {
        let why = match timeout(LONGEST, root_query(&metadata, RootQuery::TenantByName(ROOT_TENANT.into()))).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer: no majority is there, nobody leads yet, or it is being restored".to_string(),
        };
        sleep(REST).await;
        // It may take days.
        elsewhere.renew()?;
        let told = judge(&elsewhere.look_round().await)?;
        if said.is_none_or(|said| said.elapsed() >= SAY) {
            tracing::warn!(
                target: "breakwater",
                why,
                nodes = told,
                "waiting for metadata; if none of these is there any more: `breakwater admin metadata papers --out FILE` of a gateway that serves, then --metadata FILE"
            );
            said = Some(Instant::now());
        }
    }
}

/// Attempts until metadata, where that is with others, was there to the end of it.
pub async fn patiently<T>(elsewhere: Option<&Arc<Elsewhere>>, attempt: impl AsyncFn() -> Result<T, ServeError>) -> Result<T, ServeError> {
    loop {
        match (attempt().await, elsewhere) {
            (Err(error), Some(elsewhere)) if may_pass(&error) => for_metadata(elsewhere).await?,
            (outcome, _) => return outcome,
        }
    }
}

fn may_pass(error: &ServeError) -> bool {
    let told = match error {
        ServeError::Fleet(FleetError::Metadata(told) | FleetError::Boot(BootError::Metadata(told))) => told,
        ServeError::Boot(BootError::Metadata(told)) => told,
        _ => return false,
    };
    matches!(told, MetadataError::Unavailable { .. })
}

/// How each node is, as it is said while it is waited for.
///
/// - `asked`: address of each, and what came of asking it.
///
/// # Errors
/// All of them are somebody else.
fn judge(asked: &[(String, Result<(), CallError>)]) -> Result<String, ServeError> {
    let each = asked.iter().map(|(address, outcome)| match outcome {
        Ok(()) => format!("{address} answers"),
        Err(error) => format!("{address} {error}"),
    });
    let text = each.collect::<Vec<_>>().join("; ");
    let strange = !asked.is_empty() && asked.iter().all(|(_, outcome)| matches!(outcome, Err(CallError::Stranger(_))));
    if strange { Err(ServeError::Strangers(text)) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_long_as_one_node_may_yet_answer_it_is_waited_for() {
        let silent = || Err(CallError::Unreachable("refused".into()));
        let stranger = || Err(CallError::Stranger("another fleet's".into()));
        let asked = |outcomes: Vec<Result<(), CallError>>| -> Vec<_> {
            outcomes.into_iter().enumerate().map(|(number, outcome)| (format!("host-{number}"), outcome)).collect()
        };
        let waits = |outcomes| judge(&asked(outcomes));
        assert_eq!(waits(vec![Ok(()), silent()]).unwrap(), "host-0 answers; host-1 not reached: refused");
        assert!(waits(vec![]).is_ok() && waits(vec![stranger(), silent()]).is_ok() && waits(vec![stranger(), Ok(())]).is_ok());
        let ends = waits(vec![stranger(), stranger()]).unwrap_err().to_string();
        assert!(ends.contains("host-1 not reached: another fleet's"), "{ends}");
    }

    #[test]
    fn only_metadata_that_is_unavailable_may_pass() {
        let unavailable = || MetadataError::Unavailable { reason: "nobody leads".into() };
        assert!(may_pass(&FleetError::from(unavailable()).into()));
        assert!(may_pass(&BootError::from(unavailable()).into()));
        assert!(may_pass(&FleetError::from(BootError::from(unavailable())).into()));
        assert!(!may_pass(&BootError::from(MetadataError::Full { used: 1, map: 1 }).into()));
        assert!(!may_pass(&FleetError::NoFleet.into()));
    }

    #[tokio::test]
    async fn a_request_is_held_until_there_is_who_answers_or_it_takes_too_long() {
        let (sender, is) = watch::channel(None::<Arc<u8>>);
        let held = tokio::spawn(there(is.clone(), Duration::from_secs(60)));
        tokio::task::yield_now().await;
        assert!(!held.is_finished());
        sender.send_replace(Some(Arc::new(7)));
        assert_eq!(held.await.unwrap().as_deref(), Some(&7));
        assert_eq!(there(is, Duration::ZERO).await.as_deref(), Some(&7));
        let (_sender, is) = watch::channel(None::<Arc<u8>>);
        assert!(there(is, Duration::from_millis(20)).await.is_none());
    }
}
