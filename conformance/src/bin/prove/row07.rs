//! Row 7: memory stays bounded whatever an object's size, and with sixteen transfers at once.

use crate::row::{Outcome, Progress, Run, Said, mib, runtime};
use aws_sdk_s3::Client;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use conformance::client;
use conformance::content::Content;
use futures::{StreamExt, TryStreamExt};

const PART: usize = 16 << 20;
const BAR: u64 = 512 << 20;

pub fn run(run: &Run) -> Outcome {
    let parts = run.size(512usize, 16);
    let place = run.place()?;
    let server = run.server(&place, "")?;
    let runtime = runtime()?;
    let client = client::of(&server);
    let started = server.rss();
    runtime.block_on(async {
        client.create_bucket().bucket("large").send().await.said("bucket")?;
        let mut progress = Progress::new();
        upload(&client, run.seed, parts, |n| progress.say(|| format!("part {n} of {parts}, RSS {}", mib(server.rss())))).await?;
        println!("  uploaded, peak RSS {}", mib(server.peak_rss()));
        download(&client, run.seed, parts).await?;
        println!("  read back, peak RSS {}", mib(server.peak_rss()));
        sixteen(&client, run.seed, run.size(64 << 20, 8 << 20)).await
    })?;
    let peak = server.peak_rss();
    let figure = format!("peak RSS {} ({} before), {} up and down, 16 at once", mib(peak), mib(started), mib((parts * PART) as u64));
    if peak <= BAR { Ok(figure) } else { Err(figure) }
}

async fn upload(client: &Client, seed: u64, parts: usize, mut said: impl FnMut(usize)) -> Result<(), String> {
    let begun = client.create_multipart_upload().bucket("large").key("eight").send().await.said("begin")?;
    let id = begun.upload_id().unwrap_or_default();
    let mut sent = futures::stream::iter(0..parts)
        .map(|n| async move {
            let body = Content::dense(seed + n as u64, PART).bytes();
            let request = client.upload_part().bucket("large").key("eight").upload_id(id).part_number(n as i32 + 1);
            let answer = request.body(body.into()).send().await.map_err(client::failure).said("part")?;
            let part = CompletedPart::builder().part_number(n as i32 + 1).set_e_tag(answer.e_tag().map(str::to_owned));
            Ok::<_, String>(part.set_checksum_crc32(answer.checksum_crc32().map(str::to_owned)).build())
        })
        .buffered(4);
    let mut list = Vec::new();
    while let Some(part) = sent.try_next().await? {
        list.push(part);
        said(list.len());
    }
    let body = CompletedMultipartUpload::builder().set_parts(Some(list)).build();
    let request = client.complete_multipart_upload().bucket("large").key("eight").upload_id(id).multipart_upload(body);
    request.send().await.map_err(client::failure).said("complete")?;
    Ok(())
}

async fn download(client: &Client, seed: u64, parts: usize) -> Result<(), String> {
    let mut body = client.get_object().bucket("large").key("eight").send().await.map_err(client::failure).said("get")?.body;
    let (mut part, mut at, mut expected) = (0usize, 0usize, Content::dense(seed, PART).bytes());
    while let Some(bytes) = body.try_next().await.said("body")? {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            if at == PART {
                part += 1;
                at = 0;
                expected = Content::dense(seed + part as u64, PART).bytes();
            }
            let take = rest.len().min(PART - at);
            if rest[..take] != expected[at..at + take] {
                return Err(format!("part {} reads back wrong near byte {at}", part + 1));
            }
            at += take;
            rest = &rest[take..];
        }
    }
    if part + 1 == parts && at == PART { Ok(()) } else { Err(format!("{} bytes of {} came back", part * PART + at, parts * PART)) }
}

/// Sixteen single PUTs at once, then sixteen GETs.
async fn sixteen(client: &Client, seed: u64, bytes: usize) -> Result<(), String> {
    let content = |n: u64| Content::dense(seed ^ 0xffff_0000 ^ n, bytes);
    let puts = (0..16u64).map(|n| async move {
        let body = content(n).bytes();
        client.put_object().bucket("large").key(format!("sixteen/{n}")).body(body.into()).send().await.map_err(client::failure).said("put")
    });
    futures::future::try_join_all(puts).await?;
    let gets = (0..16u64).map(|n| async move {
        let answer = client.get_object().bucket("large").key(format!("sixteen/{n}")).send().await.map_err(client::failure).said("get")?;
        let body = answer.body.collect().await.said("body")?.into_bytes();
        if body == content(n).bytes() { Ok(()) } else { Err(format!("sixteen/{n} reads back wrong")) }
    });
    futures::future::try_join_all(gets).await?;
    Ok(())
}
