//! The verbs: what is done to one image, or to one image and its parents.
//!
//! Those that change a file in place do it under a [`Journal`](rehost_block::Journal), through
//! [`in_place`]; the others write a new image or nothing at all. Each is written once, over what
//! every format answers (`locate`, [`LayerMut`](rehost_image::LayerMut)), so a format that can be
//! edited has all of them.

pub mod check;
pub mod commit;
pub mod compact;
pub mod create;
pub mod in_place;
pub mod inject;
pub mod measure;
pub mod part;
pub mod range;
pub mod rebase;
pub mod resize;
pub mod snapshot;
