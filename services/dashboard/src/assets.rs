//! The pages' files, in the binary.

/// One file, as it is served.
pub(crate) struct Asset {
    pub(crate) content_type: &'static str,
    pub(crate) content: &'static [u8],
}

/// The one document of all pages; its script shows what the address names.
pub(crate) const PAGE: Asset = Asset {
    content_type: "text/html; charset=utf-8",
    content: include_bytes!("../static/page.html"),
};

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// A file below `/static/`; `None` if there is none of that name.
pub(crate) fn find(name: &str) -> Option<Asset> {
    let (content_type, content): (_, &[u8]) = match name {
        "style.css" => ("text/css; charset=utf-8", include_bytes!("../static/style.css")),
        "icon.svg" => ("image/svg+xml", include_bytes!("../static/icon.svg")),
        "app.js" => (SCRIPT, include_bytes!("../static/app.js")),
        "dom.js" => (SCRIPT, include_bytes!("../static/dom.js")),
        "format.js" => (SCRIPT, include_bytes!("../static/format.js")),
        "pages.js" => (SCRIPT, include_bytes!("../static/pages.js")),
        "plot.js" => (SCRIPT, include_bytes!("../static/plot.js")),
        "scale.js" => (SCRIPT, include_bytes!("../static/scale.js")),
        "tables.js" => (SCRIPT, include_bytes!("../static/tables.js")),
        _ => return None,
    };
    Some(Asset {
        content_type,
        content,
    })
}
