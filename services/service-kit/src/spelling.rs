//! Which name was meant.

/// So many letters may be wrong.
const DISTANCE_MAX: usize = 3;

/// The name that was probably meant by a wrong one; `None` if none is like it.
pub fn closest<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let (distance, name) = names
        .into_iter()
        .map(|name| (distance(wrong, name), name))
        .min()?;
    // Half a word changed is another word.
    (distance <= DISTANCE_MAX.min(wrong.chars().count() / 2)).then_some(name)
}

/// The advice for a wrong name: the name that was probably meant, or else `otherwise`.
pub fn advice<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>, otherwise: &str) -> String {
    match closest(wrong, names) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => otherwise.to_owned(),
    }
}

/// Edit distance of two short names.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_told_from_another_word() {
        let names = ["word-count", "stress", "a1"];
        for (wrong, meant) in [
            ("word-cuont", Some("word-count")),
            ("wordcount", Some("word-count")),
            ("sterss", Some("stress")),
            ("press", Some("stress")),
            ("transcode", None),
            ("b2", None),
            ("", None),
        ] {
            assert_eq!(closest(wrong, names), meant, "{wrong}");
        }
    }

    #[test]
    fn who_means_nothing_known_is_told_where_to_look() {
        assert_eq!(
            advice("sterss", ["stress"], "look there"),
            "did you mean `stress`?"
        );
        assert_eq!(advice("transcode", ["stress"], "look there"), "look there");
    }
}
