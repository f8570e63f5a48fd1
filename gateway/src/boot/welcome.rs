//! What a start prints: the two addresses, and on the first one the credentials with commands that work as they stand.
//!
//! Invariant: a secret is printed once in a data folder's life, by the start that made it.

use super::credentials::{Origin, RootCredentials};
use std::net::SocketAddr;

/// The first two lines are stable; tests and scripts read them.
pub fn text(s3: SocketAddr, ops: SocketAddr, tls: bool, region: &str, credentials: &RootCredentials) -> String {
    let scheme = if tls { "https" } else { "http" };
    let mut out = format!("S3 on {scheme}://{s3}\noperations on http://{ops}\n");
    match &credentials.origin {
        Origin::Environment => out.push_str(&format!("root credentials from the environment (access key {})\n", credentials.access_key)),
        Origin::File(path) => out.push_str(&format!("root credentials in {}\n", path.display())),
        Origin::Made(path) => {
            let (access, secret) = (&credentials.access_key, &credentials.secret_key);
            out.push_str(&format!(
                "\nroot credentials, shown this once and kept in {}\n\
                 \n  access key  {access}\n  secret key  {secret}\n\
                 \nrestic\n  export AWS_ACCESS_KEY_ID={access} AWS_SECRET_ACCESS_KEY={secret} RESTIC_PASSWORD=choose-one\n\
                 \x20 restic -r s3:{scheme}://{s3}/backup init\n\
                 \nrclone\n  rclone config create breakwater s3 provider=Other endpoint={scheme}://{s3} region={region} access_key_id={access} secret_access_key={secret}\n\
                 \x20 rclone mkdir breakwater:backup\n\
                 \naws\n  export AWS_ACCESS_KEY_ID={access} AWS_SECRET_ACCESS_KEY={secret} AWS_DEFAULT_REGION={region}\n\
                 \x20 aws --endpoint-url {scheme}://{s3} s3 mb s3://backup\n\n",
                path.display()
            ));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(origin: Origin) -> RootCredentials {
        RootCredentials { access_key: "ACCESS".into(), secret_key: "SECRETSECRET".into(), origin }
    }

    fn addresses() -> (SocketAddr, SocketAddr) {
        (SocketAddr::from(([127, 0, 0, 1], 9000)), SocketAddr::from(([127, 0, 0, 1], 9001)))
    }

    #[test]
    fn only_the_start_that_made_a_secret_prints_it() {
        let (s3, ops) = addresses();
        let first = text(s3, ops, false, "us-east-1", &credentials(Origin::Made("/d/root-credentials".into())));
        assert!(first.starts_with("S3 on http://127.0.0.1:9000\noperations on http://127.0.0.1:9001\n"));
        assert!(first.contains("SECRETSECRET") && first.contains("restic -r s3:http://127.0.0.1:9000/backup init"));
        for origin in [Origin::File("/d/root-credentials".into()), Origin::Environment] {
            assert!(!text(s3, ops, true, "us-east-1", &credentials(origin)).contains("SECRETSECRET"));
        }
    }
}
