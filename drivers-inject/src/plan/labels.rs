//! SELinux: a relabel at the next boot, only when a new file would have no label.
//!
//! A file that is changed keeps its inode and with it its label; a new file is given that of the
//! directory it is put into, which is the default of the policy too where no rule says otherwise.
//! Only where that directory has none (the filesystem was written to without SELinux) the guest is
//! told to label everything anew, which costs it minutes and a further boot.

use rehost_block::Result;

use super::{Change, Edit, How, Planner};

/// Read by `selinux-autorelabel.service`, and by rc.sysinit before.
const FLAG: &str = "/.autorelabel";

impl Planner<'_> {
    /// The flag file, where one of `edits` makes it necessary.
    pub(super) fn relabel(&mut self, edits: &[Edit]) -> Result<Option<Edit>> {
        let Some(selinux) = self
            .system
            .selinux
            .as_ref()
            .filter(|s| s.mode != "disabled")
        else {
            return Ok(None);
        };
        let mut unlabelled = None;
        for edit in edits {
            // What is on another filesystem than the root's is the boot loader's.
            if edit.how == How::Create
                && edit.at == self.system.root
                && !self.files.is_labelled(&self.nearest(&edit.path)?)?
            {
                unlabelled = Some(edit);
                break;
            }
        }
        let Some(edit) = unlabelled else {
            return Ok(None);
        };
        if self.files.kind(FLAG)?.is_some() {
            return Ok(None);
        }
        let reason = format!(
            "SELinux is {}, and {} is made in a directory without a label",
            selinux.mode, edit.path
        );
        let change = Change::Create { mode: 0o644 };
        let because = (reason, vec![selinux.place.clone()]);
        let place = self.place_of(FLAG)?;
        Ok(Some(Edit::of_new(FLAG, place, Vec::new(), change, because)))
    }

    /// The nearest directory above `path` that is there.
    fn nearest(&self, path: &str) -> Result<String> {
        let mut here = path;
        // Ends because every round takes the last component off.
        while let Some((parent, _)) = here.rsplit_once('/') {
            if !parent.is_empty() && self.files.directory(parent)?.is_some() {
                return Ok(parent.to_owned());
            }
            here = parent;
        }
        Ok("/".to_owned())
    }
}
