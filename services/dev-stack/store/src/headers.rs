//! What is kept beside the bytes of an object and handed out again with them.

use std::collections::BTreeMap;

use s3s::dto;
use serde::{Deserialize, Serialize};

use crate::checksum::Checksums;

/// What an object without a content type is said to be, as by S3 itself.
pub(crate) const CONTENT_TYPE_DEFAULT: &str = "binary/octet-stream";

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Headers {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cache_control: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content_disposition: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content_encoding: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content_language: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expires: Option<dto::Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) website_redirect_location: Option<String>,
    /// The `x-amz-meta-` headers, without that prefix.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) metadata: BTreeMap<String, String>,
    /// They belong to the bytes, so a copy keeps them whatever it does to the rest.
    #[serde(skip_serializing_if = "Checksums::is_empty")]
    pub(crate) checksums: Checksums,
}

/// Copies the fields from a request, or to an answer, whose types share nothing but their names.
macro_rules! headers_of {
    ($input:expr) => {
        $crate::headers::Headers {
            cache_control: $input.cache_control.take(),
            content_disposition: $input.content_disposition.take(),
            content_encoding: $input
                .content_encoding
                .take()
                .and_then($crate::headers::without_framing),
            content_language: $input.content_language.take(),
            content_type: $input.content_type.take(),
            expires: $input.expires.take(),
            website_redirect_location: $input.website_redirect_location.take(),
            metadata: $input.metadata.take().unwrap_or_default().into_iter().collect(),
            checksums: $crate::checksum::Checksums::default(),
        }
    };
}
macro_rules! set_headers {
    ($output:expr, $headers:expr) => {{
        let headers: $crate::headers::Headers = $headers;
        $output.cache_control = headers.cache_control;
        $output.content_disposition = headers.content_disposition;
        $output.content_encoding = headers.content_encoding;
        $output.content_language = headers.content_language;
        let content_type = headers.content_type;
        $output.content_type =
            Some(content_type.unwrap_or_else(|| $crate::headers::CONTENT_TYPE_DEFAULT.to_owned()));
        $output.expires = headers.expires;
        $output.website_redirect_location = headers.website_redirect_location;
        $output.metadata = Some(headers.metadata.into_iter().collect());
    }};
}
pub(crate) use {headers_of, set_headers};

/// Takes `aws-chunked` out of a content encoding: it describes the upload, not the object.
pub(crate) fn without_framing(encoding: String) -> Option<String> {
    let kept: Vec<_> = encoding
        .split(',')
        .map(str::trim)
        .filter(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("aws-chunked"))
        .collect();
    (!kept.is_empty()).then(|| kept.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_framing_of_the_upload_is_not_an_encoding_of_the_object() {
        let table = [
            ("aws-chunked", None),
            ("gzip", Some("gzip")),
            ("gzip, aws-chunked", Some("gzip")),
            ("AWS-Chunked,br,gzip", Some("br,gzip")),
        ];
        for (sent, kept) in table {
            assert_eq!(without_framing(sent.to_owned()).as_deref(), kept);
        }
    }
}
