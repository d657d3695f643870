//! VDI against foreign judges: qemu-img makes, checks and reads the images.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod corruption;
#[allow(dead_code)]
#[path = "../qcow2/judge.rs"]
mod judge;
mod reading;
mod writing;

use std::sync::Arc;

use rehost_block::{Memory, StorageMut, is_zero};
use rehost_image::{Format, TargetSpec, Written, create};

/// Writes `disk` as the copy engine does, some blocks at a time, zeroes left out.
fn write_to(storage: Arc<dyn StorageMut>, disk: &[u8]) -> Written {
    let spec = TargetSpec::new(Format::Vdi, disk.len() as u64, "disk.vdi");
    let target = create(&spec, storage).unwrap();
    let step = 2 << 20;
    for (nth, piece) in disk.chunks(step).enumerate() {
        if !is_zero(piece) {
            let offset = (nth * step) as u64;
            let payload = target.pack(offset, piece).unwrap();
            target.put(offset, payload).unwrap();
        }
    }
    target.publish().unwrap()
}

fn in_memory(disk: &[u8]) -> Vec<u8> {
    let memory = Arc::new(Memory::new("disk.vdi", Vec::new()));
    write_to(memory.clone(), disk);
    memory.to_vec()
}
