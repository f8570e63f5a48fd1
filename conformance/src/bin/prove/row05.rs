//! Row 5: the same bytes under five keys cost what one costs; another tenant shares nothing.

use crate::row::{Outcome, Run, Said, mib, runtime};
use aws_sdk_s3::Client;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use conformance::client;
use conformance::content::Content;
use conformance::ledger::Written;
use conformance::server::Server;
use conformance::workload::fetch;

pub fn run(run: &Run) -> Outcome {
    let bytes = run.size(256usize << 20, 24 << 20);
    let place = run.place()?;
    let server = run.server(&place, "")?;
    let runtime = runtime()?;
    let parts: Vec<Content> = (0..bytes / (8 << 20)).map(|n| Content::dense(run.seed.wrapping_add(n as u64), 8 << 20)).collect();
    let written = Written { parts, multipart: true };

    let mine = client::of(&server);
    runtime.block_on(mine.create_bucket().bucket("five").send()).said("bucket")?;
    let mut sealed = vec![sealed_bytes(&server)];
    for n in 0..5 {
        runtime.block_on(upload(&mine, "five", &format!("copy-{n}"), &written))?;
        sealed.push(sealed_bytes(&server));
        println!("  upload {}: {} sealed in all", n + 1, mib((sealed[n + 1] - sealed[0]) as u64));
    }
    let one = sealed[1] - sealed[0];
    let five = sealed[5] - sealed[0];

    let stranger = server.new_tenant("stranger").said("tenant")?;
    let theirs = client::with(server.endpoint(), &stranger);
    runtime.block_on(theirs.create_bucket().bucket("theirs").send()).said("bucket of the other tenant")?;
    runtime.block_on(upload(&theirs, "theirs", "copy", &written))?;
    let other = sealed_bytes(&server) - sealed[5];
    println!("  the other tenant: {} sealed", mib(other as u64));

    let expected = written.bytes();
    for (client, bucket, key) in [(&mine, "five", "copy-0"), (&mine, "five", "copy-4"), (&theirs, "theirs", "copy")] {
        let body = runtime.block_on(fetch(client, bucket, key)).said("read")?;
        if body.as_deref() != Some(&expected[..]) {
            return Err(format!("{bucket}/{key} reads back wrong"));
        }
    }
    let ratio = five / one.max(1.0);
    let figure = format!(
        "five cost {ratio:.3} x one ({} of {} sealed); the other tenant added {:.3} x one",
        mib(five as u64),
        mib(one as u64),
        other / one.max(1.0)
    );
    let stored_once = one >= 0.99 * bytes as f64 && one <= 1.05 * bytes as f64;
    if stored_once && ratio <= 1.05 && other >= 0.99 * one { Ok(figure) } else { Err(figure) }
}

/// Bytes sealed so far: what goes to the disks before coding.
fn sealed_bytes(server: &Server) -> f64 {
    server.metric("breakwater_path_sealed_bytes_total")
}

async fn upload(client: &Client, bucket: &str, key: &str, written: &Written) -> Result<(), String> {
    let begun = client.create_multipart_upload().bucket(bucket).key(key).send().await.said("begin")?;
    let id = begun.upload_id().unwrap_or_default();
    let mut done = CompletedMultipartUpload::builder();
    for (n, part) in written.parts.iter().enumerate() {
        let number = n as i32 + 1;
        let request = client.upload_part().bucket(bucket).key(key).upload_id(id).part_number(number);
        let answer = request.body(part.bytes().into()).send().await.map_err(client::failure).said("part")?;
        let part = CompletedPart::builder().part_number(number).set_e_tag(answer.e_tag().map(str::to_owned));
        done = done.parts(part.set_checksum_crc32(answer.checksum_crc32().map(str::to_owned)).build());
    }
    let request = client.complete_multipart_upload().bucket(bucket).key(key).upload_id(id).multipart_upload(done.build());
    request.send().await.map_err(client::failure).said("complete")?;
    Ok(())
}
