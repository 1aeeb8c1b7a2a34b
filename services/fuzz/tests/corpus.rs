//! Every stored input, and a few made of it, breaks nothing.

use fuzz::{TARGETS, mutate};

const MUTATIONS: usize = 30;

#[test]
fn bad_input_breaks_nothing() {
    for target in TARGETS {
        let corpus = target.corpus();
        assert!(!corpus.is_empty(), "no corpus for {}", target.name);
        let mut dice = fastrand::Rng::with_seed(1);
        for (path, input) in &corpus {
            eprintln!("{}", path.display());
            (target.run)(input);
            for _ in 0..MUTATIONS {
                let other = &corpus[dice.usize(..corpus.len())].1;
                let input = mutate(input, other, &mut dice);
                eprintln!("{}: {}", target.name, input.escape_ascii());
                (target.run)(&input);
            }
        }
    }
}
