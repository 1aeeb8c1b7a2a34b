//! The checksums a client claims for a body, and the proof of them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use s3s::TrailingHeaders;
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Md5};
use s3s::dto::ChecksumAlgorithm;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What the request says about its body.
#[derive(Default)]
pub(crate) struct Claims {
    /// In bytes, without the framing of `aws-chunked`.
    pub(crate) length: Option<i64>,
    /// Base64 of the MD5 of the body.
    pub(crate) md5: Option<String>,
    pub(crate) sums: Checksums,
    pub(crate) algorithm: Option<ChecksumAlgorithm>,
    /// Where checksums that come behind the body will be found, if the request announced any.
    pub(crate) trailers: Option<TrailingHeaders>,
}

/// Checksums of a whole object, each base64 as in its header. Kept so that a reader can check what it gets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Checksums {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) crc32: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) crc32c: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) crc64nvme: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sha1: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sha256: Option<String>,
}

/// Copies the five checksum fields from a request, or to an answer, whose types share nothing but their names.
macro_rules! checksums_of {
    ($input:expr) => {
        $crate::checksum::Checksums {
            crc32: $input.checksum_crc32.take(),
            crc32c: $input.checksum_crc32c.take(),
            crc64nvme: $input.checksum_crc64nvme.take(),
            sha1: $input.checksum_sha1.take(),
            sha256: $input.checksum_sha256.take(),
        }
    };
}
macro_rules! set_checksums {
    ($output:expr, $sums:expr) => {{
        let sums: $crate::checksum::Checksums = $sums;
        $output.checksum_crc32 = sums.crc32;
        $output.checksum_crc32c = sums.crc32c;
        $output.checksum_crc64nvme = sums.crc64nvme;
        $output.checksum_sha1 = sums.sha1;
        $output.checksum_sha256 = sums.sha256;
    }};
}
pub(crate) use {checksums_of, set_checksums};

impl Checksums {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The values here, and under the same names in the headers that came behind the body.
    fn with_trailers(mut self, trailers: &HeaderMap) -> Self {
        let fill = |sum: &mut Option<String>, name: &str| {
            if let Some(value) = trailers.get(name).and_then(|value| value.to_str().ok()) {
                *sum = Some(value.to_owned());
            }
        };
        fill(&mut self.crc32, "x-amz-checksum-crc32");
        fill(&mut self.crc32c, "x-amz-checksum-crc32c");
        fill(&mut self.crc64nvme, "x-amz-checksum-crc64nvme");
        fill(&mut self.sha1, "x-amz-checksum-sha1");
        fill(&mut self.sha256, "x-amz-checksum-sha256");
        self
    }

    /// Whether every sum that is claimed was computed and is the same.
    fn check(&self, computed: &Self) -> Result<()> {
        let pairs = [
            ("x-amz-checksum-crc32", &self.crc32, &computed.crc32),
            ("x-amz-checksum-crc32c", &self.crc32c, &computed.crc32c),
            ("x-amz-checksum-crc64nvme", &self.crc64nvme, &computed.crc64nvme),
            ("x-amz-checksum-sha1", &self.sha1, &computed.sha1),
            ("x-amz-checksum-sha256", &self.sha256, &computed.sha256),
        ];
        match pairs
            .iter()
            .find(|(_, claimed, computed)| claimed.is_some() && claimed != computed)
        {
            Some((name, _, _)) => Err(Error::BadDigest(name)),
            None => Ok(()),
        }
    }
}

/// Computes the ETag and what is claimed, and nothing else, while the body passes by.
pub(crate) struct Digest {
    claims: Claims,
    claimed_md5: Option<[u8; 16]>,
    md5: Md5,
    sums: ChecksumHasher,
    length: i64,
}

impl Digest {
    pub(crate) fn new(mut claims: Claims) -> Result<Self> {
        let decode = |text: String| {
            let bytes = STANDARD.decode(text).ok();
            bytes
                .and_then(|bytes| bytes.try_into().ok())
                .ok_or(Error::InvalidDigest("Content-MD5"))
        };
        let claimed_md5 = claims.md5.take().map(decode).transpose()?;
        let announced = |name| {
            claims
                .algorithm
                .as_ref()
                .is_some_and(|algorithm| algorithm.as_str() == name)
        };
        let sums = ChecksumHasher {
            crc32: wanted(claims.sums.crc32.is_some() || announced(ChecksumAlgorithm::CRC32)),
            crc32c: wanted(claims.sums.crc32c.is_some() || announced(ChecksumAlgorithm::CRC32C)),
            crc64nvme: wanted(claims.sums.crc64nvme.is_some() || announced(ChecksumAlgorithm::CRC64NVME)),
            sha1: wanted(claims.sums.sha1.is_some() || announced(ChecksumAlgorithm::SHA1)),
            sha256: wanted(claims.sums.sha256.is_some() || announced(ChecksumAlgorithm::SHA256)),
        };
        Ok(Self {
            claims,
            claimed_md5,
            md5: Md5::new(),
            sums,
            length: 0,
        })
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        self.sums.update(bytes);
        self.length = self
            .length
            .saturating_add(i64::try_from(bytes.len()).unwrap_or(i64::MAX));
    }

    /// Bytes so far.
    pub(crate) fn length(&self) -> i64 {
        self.length
    }

    /// The MD5 of the body and its checksums, all of which are what the request claims.
    pub(crate) fn finish(self) -> Result<([u8; 16], Checksums)> {
        if let Some(announced) = self.claims.length
            && announced != self.length
        {
            return Err(Error::Incomplete {
                received: self.length,
                announced,
            });
        }
        let md5 = self.md5.finalize();
        if self.claimed_md5.is_some_and(|claimed| claimed != md5) {
            return Err(Error::BadDigest("Content-MD5"));
        }
        let mut sums = self.sums.finalize();
        let computed = checksums_of!(sums);
        let claimed = match self.claims.trailers {
            None => self.claims.sums,
            Some(trailers) => {
                let trailers = trailers.take().ok_or(Error::BadDigest("x-amz-trailer"))?;
                self.claims.sums.with_trailers(&trailers)
            }
        };
        claimed.check(&computed)?;
        Ok((md5, computed))
    }
}

fn wanted<H: s3s::crypto::Checksum>(wanted: bool) -> Option<H> {
    wanted.then(H::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(claims: Claims) -> Result<([u8; 16], Checksums)> {
        let mut digest = Digest::new(claims)?;
        digest.update(b"1234");
        digest.update(b"56789");
        digest.finish()
    }

    /// The check values of the CRC catalogue, for the body `123456789`.
    fn sums(crc32: &str, crc32c: &str) -> Checksums {
        Checksums {
            crc32: Some(crc32.to_owned()),
            crc32c: Some(crc32c.to_owned()),
            ..Checksums::default()
        }
    }

    #[test]
    fn true_claims_are_returned_with_the_md5() {
        let claims = Claims {
            length: Some(9),
            md5: Some("JfnnlDI7RTiF9RgfG2JNCw==".to_owned()),
            sums: sums("y/Q5Jg==", "4waSgw=="),
            ..Claims::default()
        };
        let (md5, computed) = digest(claims).unwrap();
        assert_eq!(hex::encode(md5), "25f9e794323b453885f5181f1b624d0b");
        assert_eq!(computed, sums("y/Q5Jg==", "4waSgw=="));
    }

    #[test]
    fn an_announced_algorithm_is_computed_without_a_claim() {
        let algorithm = Some(ChecksumAlgorithm::from_static(ChecksumAlgorithm::CRC32));
        let (_, computed) = digest(Claims {
            algorithm,
            ..Claims::default()
        })
        .unwrap();
        assert_eq!(computed.crc32.as_deref(), Some("y/Q5Jg=="));
    }

    #[test]
    fn false_claims_are_refused_by_name() {
        let none = Claims::default;
        let cases = [
            (
                Claims {
                    length: Some(8),
                    ..none()
                },
                "the body ended after 9 bytes instead of 8",
            ),
            (
                Claims {
                    md5: Some("nonsense".to_owned()),
                    ..none()
                },
                "`Content-MD5` is not a valid checksum",
            ),
            (
                Claims {
                    md5: Some("AAAAAAAAAAAAAAAAAAAAAA==".to_owned()),
                    ..none()
                },
                "the body does not match its `Content-MD5`",
            ),
            (
                Claims {
                    sums: sums("y/Q5Jg==", "y/Q5Jg=="),
                    ..none()
                },
                "the body does not match its `x-amz-checksum-crc32c`",
            ),
        ];
        for (claims, message) in cases {
            assert_eq!(digest(claims).unwrap_err().to_string(), message);
        }
    }
}
