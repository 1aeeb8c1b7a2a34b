//! Receipts that a node signs and that anybody can verify offline (docs/decisions/0006).
//!
//! ```text
//! {
//!   "amount_grc": "0.00980592",
//!   …
//!   "key_id": "…",
//!   "signature": "HEX"          ◄── signs every byte before its own first digit
//! }
//! ```
//! The signature covers the text as it is, not what it means, so there is no second way to write the same receipt: one
//! changed byte anywhere makes it false.

mod key;

use serde_json::Value;

pub use key::{KeyError, PublicKey, SigningKey};

/// The member that names the key which signed.
const KEY_ID: &str = "key_id";
/// What stands between the last signed member and the signature's digits; signed as well.
const OPENING: &str = ",\n  \"signature\": \"";
const CLOSING: &str = "\"\n}\n";
const SIGNATURE_BYTES: usize = 64;

/// Why a receipt proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error(
        "it does not end with a signature (hint: it must be the file as the node wrote it, byte by byte)"
    )]
    Unsigned,
    #[error(
        "it says that key {signer} signed it, the key given is {given} (hint: `gridfaas node key` on the node that ran the task prints the right one)"
    )]
    OtherKey { signer: String, given: String },
    #[error("its signature does not fit: it was changed after it was signed")]
    Changed,
}

/// The text of a signed receipt. `members` is an object with at least one member.
pub fn sign(mut members: Value, key: &SigningKey) -> String {
    members[KEY_ID] = key.public().id().into();
    let pretty = format!("{members:#}");
    let open = pretty.strip_suffix("\n}").expect("an object with members");
    let mut text = format!("{open}{OPENING}");
    let signature = hex::encode(key.sign(text.as_bytes()));
    text.push_str(&signature);
    text.push_str(CLOSING);
    text
}

/// The receipt's members, if `key` signed exactly this text.
pub fn verify(text: &[u8], key: &PublicKey) -> Result<Value, Invalid> {
    let (signed, digits) = text
        .strip_suffix(CLOSING.as_bytes())
        .and_then(|open| open.split_at_checked(open.len().checked_sub(2 * SIGNATURE_BYTES)?))
        .filter(|(signed, _)| signed.ends_with(OPENING.as_bytes()))
        .ok_or(Invalid::Unsigned)?;
    let signature = unhex(digits).ok_or(Invalid::Unsigned)?;
    let members = serde_json::from_slice::<Value>(text);
    if key.signed(signed, &signature) {
        return members.map_err(|_| Invalid::Unsigned);
    }
    let signer = members
        .ok()
        .and_then(|members| Some(members[KEY_ID].as_str()?.to_owned()));
    match signer {
        Some(signer) if signer != key.id() => Err(Invalid::OtherKey {
            signer,
            given: key.id(),
        }),
        _ => Err(Invalid::Changed),
    }
}

/// Lower-case digits only: each value has one spelling.
fn unhex(digits: &[u8]) -> Option<Vec<u8>> {
    let has_upper_case = digits.iter().any(u8::is_ascii_uppercase);
    hex::decode(digits).ok().filter(|_| !has_upper_case)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;
    use std::sync::LazyLock;

    static KEY: LazyLock<SigningKey> = LazyLock::new(|| {
        let folder = tempfile::tempdir().unwrap();
        SigningKey::read_or_make(&folder.path().join("key")).unwrap()
    });

    fn receipt(task: &str, amount: i64) -> String {
        sign(
            json!({ "task": task, "amount": amount, "attempts": [{ "number": 1 }] }),
            &KEY,
        )
    }

    #[test]
    fn what_was_signed_is_true_and_still_json() {
        let text = receipt("a\"\n}\nb", 5);
        let members = verify(text.as_bytes(), &KEY.public()).unwrap();
        assert_eq!(
            (&members["amount"], &members["task"]),
            (&json!(5), &json!("a\"\n}\nb"))
        );
        assert_eq!(members["key_id"], KEY.public().id());
    }

    #[test]
    fn another_key_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let other = SigningKey::read_or_make(&folder.path().join("key")).unwrap();
        let err = verify(receipt("a", 5).as_bytes(), &other.public()).unwrap_err();
        assert!(
            matches!(&err, Invalid::OtherKey { given, .. } if *given == other.public().id()),
            "{err}"
        );
    }

    #[test]
    fn what_is_no_receipt_is_refused() {
        for text in ["", "{}", "\"\n}\n", CLOSING, "x\"\n}\n"] {
            assert_eq!(
                verify(text.as_bytes(), &KEY.public()),
                Err(Invalid::Unsigned),
                "{text:?}"
            );
        }
        let upper = receipt("a", 5).to_uppercase();
        assert!(verify(upper.as_bytes(), &KEY.public()).is_err());
    }

    proptest! {
        #[test]
        fn one_changed_byte_makes_it_false(
            task in ".*", amount in any::<i64>(), at in any::<prop::sample::Index>(), change in 1..=255_u8,
        ) {
            let mut text = receipt(&task, amount).into_bytes();
            prop_assert!(verify(&text, &KEY.public()).is_ok());
            let at = at.index(text.len());
            text[at] ^= change;
            prop_assert!(verify(&text, &KEY.public()).is_err(), "byte {at}");
        }

        #[test]
        fn a_cut_or_added_byte_makes_it_false(at in any::<prop::sample::Index>(), added in any::<u8>()) {
            let text = receipt("a", 5).into_bytes();
            let at = at.index(text.len());
            let (mut cut, mut longer) = (text.clone(), text);
            cut.remove(at);
            longer.insert(at, added);
            prop_assert!(verify(&cut, &KEY.public()).is_err());
            prop_assert!(verify(&longer, &KEY.public()).is_err());
        }
    }

    /// Every byte of one receipt, not a sample.
    #[test]
    fn every_byte_counts() {
        let text = receipt("a", 5).into_bytes();
        for at in 0..text.len() {
            let mut changed = text.clone();
            changed[at] ^= 1;
            assert!(verify(&changed, &KEY.public()).is_err(), "byte {at}");
        }
    }
}
