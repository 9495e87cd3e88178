//! Inputs of the fuzz targets: their corpus, and what is made from it.

use std::fs;
use std::panic::{UnwindSafe, catch_unwind};
use std::path::Path;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// The corpus of a fuzz target, in the order of the files' names.
pub(crate) fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|file| fs::read(file).unwrap()).collect()
}

/// Checks the corpus of a target of at least `least` files, and `count` inputs made from it; the input that fails is
/// shown.
pub(crate) fn try_all(target: &str, least: usize, count: usize, check: impl Fn(&[u8]) + UnwindSafe + Copy) {
    let corpus = corpus(target);
    assert!(corpus.len() >= least, "{} files", corpus.len());
    let check = |bytes: &[u8]| {
        let input = bytes.to_vec();
        assert!(catch_unwind(move || check(&input)).is_ok(), "with {bytes:02x?}");
    };
    corpus.iter().for_each(|bytes| check(bytes));
    let mut rng = SmallRng::seed_from_u64(1);
    (0..count).for_each(|_| check(&changed(&corpus, &mut rng)));
}

/// One of the corpus, cut, prolonged, crossed with another or altered, once or a few times.
fn changed(corpus: &[Vec<u8>], rng: &mut SmallRng) -> Vec<u8> {
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
    bytes
}
