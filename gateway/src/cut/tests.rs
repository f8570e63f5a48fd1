use super::*;
use crate::body::Name;
use crate::metric::WRITE_MEMORY_FREE;
use proptest::prelude::*;
use spine::id::{BucketId, TenantId};

fn request(chunk_bytes: u32, declared_len: Option<u64>, max_len: u64) -> BodyRequest {
    BodyRequest {
        tenant: TenantId(1),
        name: Name::new(BucketId(1), "some/name"),
        chunk_bytes,
        declared_len,
        max_len,
        checksums: Vec::new(),
        inline_allowed: true,
    }
}

fn body(pieces: Vec<Result<Bytes, &'static str>>) -> BodyStream {
    Box::pin(futures::stream::iter(pieces.into_iter().map(|piece| piece.map_err(Into::into))))
}

fn cutter(request: &BodyRequest, pieces: Vec<Result<Bytes, &'static str>>) -> Cutter {
    Cutter::new(request, body(pieces), Arc::new(Budget::new(64 << 10, &WRITE_MEMORY_FREE)), 250)
}

async fn all(mut cutter: Cutter) -> Result<Vec<(Bytes, bool)>, WriteError> {
    let mut out = Vec::new();
    while let Some(chunk) = cutter.next().await? {
        out.push((chunk.data, chunk.last));
    }
    Ok(out)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn chunks_join_to_the_body_and_only_the_last_is_short(pieces in proptest::collection::vec(0usize..700, 0..20), declare in any::<bool>()) {
        let total: usize = pieces.iter().sum();
        let whole: Vec<u8> = (0..total).map(|i| (i % 251) as u8).collect();
        let mut at = 0;
        let cut: Vec<Result<Bytes, &str>> = pieces.iter().map(|len| { at += len; Ok(Bytes::copy_from_slice(&whole[at - len..at])) }).collect();
        let request = request(256, declare.then_some(total as u64), 1 << 20);
        let chunks = futures::executor::block_on(all(cutter(&request, cut))).unwrap();
        let joined: Vec<u8> = chunks.iter().flat_map(|(data, _)| data.to_vec()).collect();
        prop_assert_eq!(joined, whole);
        let count = chunks.len();
        prop_assert_eq!(count, total.div_ceil(256));
        for (i, (data, last)) in chunks.iter().enumerate() {
            prop_assert!(data.len() == 256 || i + 1 == count);
            prop_assert!(!last || i + 1 == count);
        }
        if declare {
            prop_assert!(chunks.last().is_none_or(|(_, last)| *last));
        }
    }
}

#[tokio::test]
async fn a_body_in_one_piece_is_not_copied() {
    let piece = Bytes::from(vec![7; 200]);
    let request = request(256, Some(200), 1 << 20);
    let chunks = all(cutter(&request, vec![Ok(piece.clone())])).await.unwrap();
    assert_eq!(chunks[0].0.as_ptr(), piece.as_ptr());
}

#[tokio::test]
async fn a_body_shorter_or_longer_than_declared_is_refused() {
    for (declared, lens) in [(10, vec![4, 5]), (10, vec![4, 7]), (256, vec![256, 1]), (256, vec![255]), (0, vec![1]), (300, vec![256, 45])]
    {
        let got: usize = lens.iter().sum();
        let pieces = lens.iter().map(|len| Ok(Bytes::from(vec![0; *len]))).collect();
        match all(cutter(&request(256, Some(declared), 1 << 20), pieces)).await {
            Err(WriteError::Short { declared: said, got: counted }) => assert_eq!((said, counted), (declared, got as u64)),
            other => panic!("declared {declared}, got {got}: {:?}", other.map(|chunks| chunks.len())),
        }
    }
}

#[tokio::test]
async fn a_body_over_its_limit_is_refused_as_soon_as_it_is_seen() {
    let pieces = vec![Ok(Bytes::from(vec![0; 600])), Err("never asked for")];
    assert!(matches!(all(cutter(&request(256, None, 512), pieces)).await, Err(WriteError::TooLarge { max: 512 })));
}

#[tokio::test]
async fn a_fault_of_the_stream_comes_back_even_behind_the_last_byte() {
    let pieces = vec![Ok(Bytes::from(vec![0; 256])), Err("bad trailer")];
    match all(cutter(&request(256, Some(256), 512), pieces)).await {
        Err(WriteError::Body(error)) => assert_eq!(error.to_string(), "bad trailer"),
        _ => panic!("the fault was swallowed"),
    }
}

#[tokio::test]
async fn memory_is_taken_before_bytes_are_copied_and_given_back_with_the_chunk() {
    let budget = Arc::new(Budget::new(10 << 10, &WRITE_MEMORY_FREE));
    let request = request(4 << 10, None, 1 << 20);
    let pieces = (0..8).map(|_| Ok(Bytes::from(vec![0; 2 << 10]))).collect();
    let mut cutter = Cutter::new(&request, body(pieces), budget, 250);
    let first = cutter.next().await.unwrap().unwrap();
    assert_eq!(first.memory.bytes(), 10 << 10);
    {
        let mut second = Box::pin(cutter.next());
        assert!(tokio::time::timeout(std::time::Duration::from_millis(20), &mut second).await.is_err());
        drop(first);
        assert!(second.await.unwrap().is_some());
    }
}
