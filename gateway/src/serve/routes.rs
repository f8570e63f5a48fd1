//! A gateway on the routing layer: keeps a table of where all nodes are, and looks for those that do not answer.
//!
//! The root group says who belongs; routing says where they are now. What is found goes to the links through [`Whereabouts`].

use crate::fleet::FleetError;
use crate::fleet::table::{Fleet, Live};
use crate::fleet::whereabouts::Whereabouts;
use routing::{Own, Router};
use rustls::pki_types::PrivateKeyDer;
use spine::fleet::certificate;
use spine::id::NodeId;
use spine::wire::shard::NodeState;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How often the nodes are looked through.
const LOOK: Duration = Duration::from_secs(1);
/// A node that answers is looked up this often: its announcement is at hand when it no longer does.
const REFRESH: Duration = Duration::from_secs(600);
/// One that is lost or unknown: at first, and at most.
const SOON: Duration = Duration::from_secs(2);
const SELDOM: Duration = Duration::from_secs(120);
/// Lookups at a time.
const AT_ONCE: usize = 8;
/// Peers in a bucket: a gateway's own table has room for a fleet of thousands.
const BUCKET: usize = 256;

struct Announced(Router);

impl Whereabouts for Announced {
    fn announced(&self, node: NodeId) -> Option<String> {
        Some(self.0.known(node)?.said.address)
    }
}

/// When a node is due to be looked up, and the pause after that.
struct Due {
    at: Instant,
    pause: Duration,
    lost: bool,
}

/// Until told to stop. Without a router to begin with there is nothing to do.
pub async fn run(fleet: Arc<Fleet>, bootstrap: Vec<String>, mut stop: watch::Receiver<bool>) {
    if bootstrap.is_empty() {
        return;
    }
    let stopped = stop.clone();
    let asked = tokio::select! {
        _ = stop.wait_for(|stop| *stop) => return,
        routes = Routes::begin(&fleet, bootstrap, stopped) => routes,
    };
    match asked {
        Ok(routes) => tokio::select! {
            _ = stop.wait_for(|stop| *stop) => {}
            () = routes.follow(&fleet) => {}
        },
        Err(error) => tracing::error!(target: "breakwater", %error, "routing is not used: nodes that move are not found by themselves"),
    }
}

struct Routes {
    router: Router,
    live: Arc<Live>,
    /// The router's own key.
    own: NodeId,
    life: Duration,
}

impl Routes {
    /// Waits until there is a fleet, then takes part in its routing.
    async fn begin(fleet: &Fleet, bootstrap: Vec<String>, stop: watch::Receiver<bool>) -> Result<Routes, FleetError> {
        let live = loop {
            match fleet.live() {
                Ok(live) => break live,
                Err(_) => tokio::time::sleep(LOOK).await,
            }
        };
        let wrong = |reason: String| FleetError::Wrong(reason);
        let life = fleet.settings.life;
        let (certificate, key) = live.routing_papers(life)?;
        let own = certificate::read(&certificate).map_err(|error| wrong(error.to_string()))?.node;
        let PrivateKeyDer::Pkcs8(key) = key else { return Err(wrong("the new key is not in PKCS#8".into())) };
        let mut settings = routing::Settings::new(key.secret_pkcs8_der().to_vec(), certificate.to_vec());
        settings.bootstrap = bootstrap;
        settings.bucket = BUCKET;
        let router = Router::start(settings, live.trust.clone(), stop).await.map_err(|error| wrong(error.to_string()))?;
        let routes = Routes { router, live, own, life };
        routes.introduce(certificate.to_vec()).await?;
        fleet.set_whereabouts(Arc::new(Announced(routes.router.clone())));
        Ok(routes)
    }

    async fn introduce(&self, certificate: Vec<u8>) -> Result<(), FleetError> {
        let own = Own { certificate, announcements: Vec::new() };
        self.router.introduce(own).await.map_err(|error| FleetError::Wrong(error.to_string()))
    }

    /// Looks up what is due, and renews the own certificate from a third of its life on.
    async fn follow(&self, fleet: &Fleet) {
        let mut due: HashMap<NodeId, Due> = HashMap::new();
        let mut made = Instant::now();
        loop {
            tokio::time::sleep(LOOK).await;
            if made.elapsed() >= self.life / 3 {
                made = Instant::now();
                let renewed = match self.live.renew_routing_papers(self.own, self.life) {
                    Ok(certificate) => self.introduce(certificate.to_vec()).await,
                    Err(error) => Err(error),
                };
                if let Err(error) = renewed {
                    tracing::warn!(target: "breakwater", %error, "the gateway's routing certificate was not renewed");
                }
            }
            let members = fleet.roster().members();
            due.retain(|node, _| members.iter().any(|member| member.link.id() == *node));
            let mut asked = Vec::new();
            for member in members.iter() {
                let node = member.link.id();
                let lost = member.link.status().state == NodeState::Lost;
                if is_due(&mut due, node, lost || self.router.known(node).is_none(), Instant::now()) {
                    asked.push(node);
                }
            }
            for some in asked.chunks(AT_ONCE) {
                // What was found is in the router's table; what was not is asked for again.
                futures::future::join_all(some.iter().map(|node| self.router.locate(*node))).await;
            }
        }
    }
}

/// Whether a node is to be looked up now; books the next time. `lost`: it does not answer, or nothing is known of it.
fn is_due(due: &mut HashMap<NodeId, Due>, node: NodeId, lost: bool, now: Instant) -> bool {
    let known = due.entry(node).or_insert(Due { at: now, pause: SOON, lost });
    if known.lost != lost {
        *known = if lost { Due { at: now, pause: SOON, lost } } else { Due { at: now + REFRESH, pause: SOON, lost } };
    }
    if now < known.at {
        return false;
    }
    if lost {
        known.at = now + known.pause;
        known.pause = (known.pause * 2).min(SELDOM);
    } else {
        known.at = now + REFRESH;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_node_is_looked_for_at_once_then_ever_less_and_one_that_answers_seldom() {
        let (mut due, node, begin) = (HashMap::new(), NodeId([1; 32]), Instant::now());
        let mut asked = |seconds: u64, lost| is_due(&mut due, node, lost, begin + Duration::from_secs(seconds));
        let looks: Vec<u64> = (0..600).filter(|at| asked(*at, true)).collect();
        assert_eq!(looks, [0, 2, 6, 14, 30, 62, 126, 246, 366, 486]);
        assert!(!asked(600, false));
        assert!(!asked(1_199, false));
        assert!(asked(1_200, false));
        assert!(asked(1_201, true));
    }
}
