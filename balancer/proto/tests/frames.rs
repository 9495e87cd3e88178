//! Bad frames: the corpus of the fuzz target, and a million inputs made from it.

#[path = "support/frames.rs"]
mod frames;
#[path = "support/mutate.rs"]
mod mutate;

#[test]
fn neither_the_corpus_nor_a_million_changed_frames_are_answered_wrongly() {
    mutate::try_all("layer2_frame", 30, 1_000_000, frames::check);
}
