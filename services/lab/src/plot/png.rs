//! An SVG of ours as a PNG, with the font that comes with it: the same on every machine.

use std::sync::Arc;

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{self, Options, Tree};

/// Twice the SVG's own size: 192 pixels an inch.
const SCALE: u16 = 2;
static FONT: &[u8] = include_bytes!("../../font/DejaVuSans.ttf");

#[derive(Debug, thiserror::Error)]
pub enum PngError {
    #[error("the SVG cannot be drawn")]
    Svg(#[from] usvg::Error),
    #[error("the picture has no size")]
    Size,
    #[error("the picture cannot be written as PNG")]
    Encode(#[source] Box<dyn std::error::Error + Send + Sync>),
}

pub(super) fn png(svg: &str) -> Result<Vec<u8>, PngError> {
    let mut options = Options::default();
    Arc::make_mut(&mut options.fontdb).load_font_data(FONT.to_vec());
    let tree = Tree::from_str(svg, &options)?;
    let size = tree.size().to_int_size();
    let scaled = |length: u32| length.saturating_mul(u32::from(SCALE));
    let mut picture = Pixmap::new(scaled(size.width()), scaled(size.height())).ok_or(PngError::Size)?;
    let transform = Transform::from_scale(f32::from(SCALE), f32::from(SCALE));
    resvg::render(&tree, transform, &mut picture.as_mut());
    picture.encode_png().map_err(|err| PngError::Encode(err.into()))
}
