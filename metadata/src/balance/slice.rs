//! Where a group may be split, and what each part of it bears.

use spine::id::ChunkId;
pub use spine::wire::cluster::Cut;

/// What lies between this cut and the next one of a list, or the group's end. Cuts at which something can be given away are those of all but
/// the first; one at the start of the group's range gives all of that range away.
#[derive(Clone, Debug, PartialEq)]
pub struct Slice {
    pub from: Cut,
    /// In any unit that the slices of one group share.
    pub heat: f64,
}

/// A range of chunks in `parts` even slices: ids are hashes, so its load is spread over it evenly. Fewer where the range is too small.
pub fn even(start: ChunkId, end: Option<ChunkId>, parts: u8) -> Vec<Slice> {
    let high = |id: ChunkId| u64::from_be_bytes(*id.0.first_chunk().unwrap_or(&[0; 8]));
    let (low, top) = (u128::from(high(start)), end.map_or(1 << 64, |end| u128::from(high(end))));
    let step = top.saturating_sub(low) / u128::from(parts.max(1));
    let mut slices = vec![Slice { from: Cut::Chunks(start), heat: 1.0 }];
    if step == 0 {
        return slices;
    }
    for part in 1..u128::from(parts) {
        let mut at = [0; 32];
        // Below 2^64, since `part * step` stays below `top - low`.
        at[..8].copy_from_slice(&((low + part * step) as u64).to_be_bytes());
        slices.push(Slice { from: Cut::Chunks(ChunkId(at)), heat: 1.0 });
    }
    slices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_slices_ascend_inside_their_range() {
        let id = |byte: u8| ChunkId([byte; 32]);
        for (start, end) in [(id(0), None), (id(0), Some(id(1))), (id(200), None), (id(17), Some(id(18))), (id(9), Some(id(9)))] {
            for parts in [0, 1, 2, 7, 255] {
                let slices = even(start, end, parts);
                assert_eq!(slices[0].from, Cut::Chunks(start));
                assert!(slices.windows(2).all(|pair| pair[0].from < pair[1].from));
                assert!(slices.iter().skip(1).all(|slice| end.is_none_or(|end| slice.from < Cut::Chunks(end))));
                assert_eq!(slices.len(), if start == id(9) { 1 } else { usize::from(parts.max(1)) });
            }
        }
    }
}
