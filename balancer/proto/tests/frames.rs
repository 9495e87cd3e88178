//! Bad frames: the corpus of the fuzz target, and a million inputs made from it.

#[path = "support/frames.rs"]
mod frames;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

const GENERATED: usize = 1_000_000;

fn corpus() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/layer2_frame");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|file| fs::read(file).unwrap()).collect()
}

fn check(bytes: &[u8]) {
    let checked = catch_unwind(AssertUnwindSafe(|| frames::check(bytes)));
    assert!(checked.is_ok(), "with {bytes:02x?}");
}

#[test]
fn the_corpus_is_never_answered_wrongly() {
    let corpus = corpus();
    assert!(corpus.len() > 30, "{} files", corpus.len());
    corpus.iter().for_each(|bytes| check(bytes));
}

#[test]
fn a_million_changed_frames_are_never_answered_wrongly() {
    let corpus = corpus();
    let mut rng = SmallRng::seed_from_u64(1);
    for _ in 0..GENERATED {
        let mut bytes = corpus[rng.random_range(0..corpus.len())].clone();
        for _ in 0..rng.random_range(1..4) {
            match rng.random_range(0..4) {
                0 => bytes.truncate(rng.random_range(0..=bytes.len())),
                1 => bytes.extend((0..rng.random_range(0..40)).map(|_| rng.random::<u8>())),
                2 => {
                    let other = &corpus[rng.random_range(0..corpus.len())];
                    let cut = rng.random_range(0..=bytes.len().min(other.len()));
                    bytes.truncate(cut);
                    bytes.extend_from_slice(&other[cut..]);
                }
                _ if bytes.is_empty() => {}
                _ => {
                    let at = rng.random_range(0..bytes.len());
                    bytes[at] = rng.random();
                }
            }
        }
        check(&bytes);
    }
}
