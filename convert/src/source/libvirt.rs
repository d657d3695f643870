//! A libvirt domain as `virsh dumpxml` prints it, and as this program writes it.
//!
//! Source: libvirt's "Domain XML format" (formatdomain) of version 9.0. Every disk is opened through
//! the caller's [`Opener`], so that a domain can name no file or device that its user did not mean to
//! hand over. A disk's `<driver type>` is taken at its word, as libvirt does: the format is not guessed.
//!
//! Refused by name: domains that are no full virtual machine of x86, disks on a network, in a storage
//! pool, behind vhost-user or on a host's PCI NVMe, and slices of files. Left out, and listed in
//! [`Vm::left_out`]: host devices, floppies, TPMs, filesystems, kernels of the host's, shared disks.

mod devices;
mod domain;

use std::path::Path;

use rehost_block::{Error, Opener, Result};
use roxmltree::{Document, Node, ParsingOptions};

use super::Vm;

/// Most elements and attributes of a description. Ours: a machine with a hundred disks has 2,000.
const MOST_NODES: u32 = 100_000;

/// Reads the domain at `path`; its disks must exist and be let through by `opener`.
///
/// # Errors
/// Io when a file cannot be read; Usage when `opener` refuses a disk; Unsupported, by name, for
/// what the module's head lists; Corrupt, with line and byte offset, for what is no domain.
pub fn read(path: &Path, opener: &dyn Opener) -> Result<Vm> {
    let bytes = super::bytes(path, "domain XML")?;
    parse(&bytes, path, opener).map_err(|error| error.in_structure("domain XML").in_file(path))
}

/// As [`read`], for content that is in memory; `path` is where it came from.
///
/// # Errors
/// As [`read`].
pub fn parse(bytes: &[u8], path: &Path, opener: &dyn Opener) -> Result<Vm> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let at = u64::try_from(error.valid_up_to()).unwrap_or(u64::MAX);
        Error::corrupt("text that is not UTF-8").at(at)
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // No document type and so no entities of its own: nothing grows while it is read.
    let options = ParsingOptions {
        allow_dtd: false,
        nodes_limit: MOST_NODES,
        ..ParsingOptions::default()
    };
    let document = Document::parse_with_options(text, options)
        .map_err(|error| Error::corrupt("is no XML").because(error))?;
    let lines: Vec<usize> = text
        .bytes()
        .enumerate()
        .filter_map(|(at, byte)| (byte == b'\n').then_some(at))
        .collect();
    let reader = Reader {
        document: &document,
        lines: &lines,
    };
    domain::build(reader, path, opener)
}

/// The document, for the places of what is in it.
#[derive(Clone, Copy)]
struct Reader<'a> {
    document: &'a Document<'a>,
    /// Where its lines end; the document itself would count them anew for every node.
    lines: &'a [usize],
}

impl<'a> Reader<'a> {
    fn root(self) -> Node<'a, 'a> {
        self.document.root_element()
    }

    /// The line that `node` begins on, from 1.
    fn line(self, node: Node<'_, '_>) -> u32 {
        let before = self.lines.partition_point(|end| *end < node.range().start);
        u32::try_from(before).unwrap_or(u32::MAX).saturating_add(1)
    }

    /// An error about `node`.
    fn unsupported(self, node: Node<'_, '_>, what: &str) -> Error {
        Error::unsupported(self.said(node, what)).at(offset(node))
    }

    /// An error about `node`.
    fn corrupt(self, node: Node<'_, '_>, what: &str) -> Error {
        Error::corrupt(self.said(node, what)).at(offset(node))
    }

    fn said(self, node: Node<'_, '_>, what: &str) -> String {
        let name = node.tag_name().name();
        format!("line {}: <{name}> {what}", self.line(node))
    }
}

fn offset(node: Node<'_, '_>) -> u64 {
    u64::try_from(node.range().start).unwrap_or(u64::MAX)
}

/// The first child element called `name`.
fn child<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    children(node, name).next()
}

/// The child elements called `name`.
fn children<'a, 'i>(node: Node<'a, 'i>, name: &str) -> impl Iterator<Item = Node<'a, 'i>> {
    node.children()
        .filter(move |child| child.is_element() && child.tag_name().name() == name)
}

/// The text of the first child element called `name`, if there is some.
fn text<'a>(node: Node<'a, '_>, name: &str) -> Option<&'a str> {
    let text = child(node, name)?.text()?.trim();
    (!text.is_empty()).then_some(text)
}

/// The attribute `name` of the first child element called `of`.
fn attribute<'a>(node: Node<'a, '_>, of: &str, name: &str) -> Option<&'a str> {
    child(node, of)?.attribute(name)
}

#[cfg(test)]
mod tests;
