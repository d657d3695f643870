//! virtio-blk: requests of the guest, carried out on a disk.
//!
//! Virtual I/O Device (VIRTIO) 1.2, section 5.2. Everything in guest memory is hostile: a chain
//! without room for a status byte is returned unanswered, every other fault is a status.
//! Leaves out on purpose: discard and write-zeroes (an overlay would remember each block of a
//! trimmed disk), more than one queue, read-only disks, write-cache configuration. A last
//! sector that is not whole is not shown.

use std::io::{Read, Write};
use std::sync::Arc;

use rehost_block::DiskMut;
use virtio_queue::{DescriptorChain, Reader, Writer};

use super::transport::Personality;
use super::vm::Memory;

/// Bytes of a sector, the unit of all addresses.
const SECTOR: u64 = 512;
/// Queue entries, and segments a driver may put into one request (two are header and status).
pub(super) const QUEUE_SIZE: u16 = 256;
const SEGMENTS: u32 = 254;
/// Largest segment, so that a request's size has a limit that the driver knows.
const SEGMENT_BYTES: u32 = 64 << 10;
/// The most data of one request, and so the most memory that one takes.
const REQUEST_BYTES: usize = SEGMENTS as usize * SEGMENT_BYTES as usize;

const VIRTIO_ID_BLOCK: u16 = 2;
/// `VIRTIO_BLK_F_SIZE_MAX`, `_SEG_MAX`, `_BLK_SIZE`, `_FLUSH`.
const FEATURES: u64 = 1 << 1 | 1 << 2 | 1 << 6 | 1 << 9;

const TYPE_IN: u32 = 0;
const TYPE_OUT: u32 = 1;
const TYPE_FLUSH: u32 = 4;
const TYPE_GET_ID: u32 = 8;
/// Bytes of the answer to `VIRTIO_BLK_T_GET_ID`.
const ID_BYTES: usize = 20;

/// How a request went, by its number on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Status {
    Ok = 0,
    IoError = 1,
    Unsupported = 2,
}

/// The disk behind a virtio-blk device.
#[derive(Debug)]
pub(super) struct Block {
    disk: Arc<dyn DiskMut>,
    serial: String,
}

/// Request header: type, a reserved word, first sector.
struct Header {
    kind: u32,
    sector: u64,
}

impl Block {
    /// `disk`, which answers `serial` when asked for its name.
    pub(super) fn new(disk: Arc<dyn DiskMut>, serial: String) -> Self {
        Self { disk, serial }
    }

    /// What the transport must know of it.
    pub(super) fn personality(&self) -> Personality {
        let mut config = Vec::new();
        config.extend_from_slice(&(self.disk.size() / SECTOR).to_le_bytes()); // capacity
        config.extend_from_slice(&SEGMENT_BYTES.to_le_bytes()); // size_max
        config.extend_from_slice(&SEGMENTS.to_le_bytes()); // seg_max
        config.extend_from_slice(&[0; 4]); // geometry: not known
        config.extend_from_slice(&512_u32.to_le_bytes()); // blk_size
        Personality {
            id: VIRTIO_ID_BLOCK,
            class: (0x01, 0x80), // mass storage, other
            features: FEATURES,
            config,
        }
    }

    /// Carries out the request in `chain` and says how many bytes were written to it.
    pub(super) fn answer(&self, memory: &Memory, chain: DescriptorChain<&Memory>) -> u32 {
        let Ok(mut reader) = chain.clone().reader(memory) else {
            return 0;
        };
        let Ok(mut writer) = chain.writer(memory) else {
            return 0;
        };
        let Some(room) = writer.available_bytes().checked_sub(1) else {
            return 0;
        };
        let Ok(mut tail) = writer.split_at(room) else {
            return 0;
        };
        let status = self.carry_out(&mut reader, &mut writer);
        let written = if status == Status::Ok {
            writer.bytes_written()
        } else {
            0
        };
        if tail.write_all(&[status as u8]).is_err() {
            return 0;
        }
        u32::try_from(written).unwrap_or(0).saturating_add(1)
    }

    fn carry_out(&self, reader: &mut Reader<'_>, writer: &mut Writer<'_>) -> Status {
        let Some(header) = read_header(reader) else {
            return Status::IoError;
        };
        match header.kind {
            TYPE_IN => self.read(header.sector, writer),
            TYPE_OUT => self.write(header.sector, reader),
            TYPE_FLUSH => match self.disk.sync() {
                Ok(()) => Status::Ok,
                Err(_) => Status::IoError,
            },
            TYPE_GET_ID => self.name(writer),
            _ => Status::Unsupported,
        }
    }

    /// The byte offset of `len` bytes from `sector`, when they are whole sectors of this disk.
    fn place(&self, sector: u64, len: usize) -> Option<u64> {
        let bytes = u64::try_from(len).ok()?;
        let offset = sector.checked_mul(SECTOR)?;
        let end = offset.checked_add(bytes)?;
        let whole = len <= REQUEST_BYTES && bytes.is_multiple_of(SECTOR);
        (whole && end <= self.disk.size()).then_some(offset)
    }

    fn read(&self, sector: u64, writer: &mut Writer<'_>) -> Status {
        let len = writer.available_bytes();
        let Some(offset) = self.place(sector, len) else {
            return Status::IoError;
        };
        let mut data = vec![0; len];
        if self.disk.read_at(&mut data, offset).is_err() || writer.write_all(&data).is_err() {
            return Status::IoError;
        }
        Status::Ok
    }

    fn write(&self, sector: u64, reader: &mut Reader<'_>) -> Status {
        let len = reader.available_bytes();
        let Some(offset) = self.place(sector, len) else {
            return Status::IoError;
        };
        let mut data = vec![0; len];
        if reader.read_exact(&mut data).is_err() || self.disk.write_at(&data, offset).is_err() {
            return Status::IoError;
        }
        Status::Ok
    }

    fn name(&self, writer: &mut Writer<'_>) -> Status {
        let mut id = [0; ID_BYTES];
        for (slot, byte) in id.iter_mut().zip(self.serial.bytes()) {
            *slot = byte;
        }
        let len = writer.available_bytes().min(ID_BYTES);
        match writer.write_all(id.get(..len).unwrap_or(&id)) {
            Ok(()) => Status::Ok,
            Err(_) => Status::IoError,
        }
    }
}

fn read_header(reader: &mut Reader<'_>) -> Option<Header> {
    let mut bytes = [0; 16];
    reader.read_exact(&mut bytes).ok()?;
    let [k0, k1, k2, k3, _, _, _, _, sector @ ..] = bytes;
    Some(Header {
        kind: u32::from_le_bytes([k0, k1, k2, k3]),
        sector: u64::from_le_bytes(sector),
    })
}

#[cfg(test)]
mod tests {
    use rehost_block::{Disk, Memory as Content, Overlay, StorageDisk};
    use virtio_queue::desc::{RawDescriptor, split::Descriptor};
    use virtio_queue::mock::MockSplitQueue;
    use virtio_queue::{Queue, QueueT};
    use vm_memory::{Bytes, GuestAddress};

    use super::*;

    const WRITABLE: u16 = 2;
    const HEADER: u64 = 0x10_0000;
    const DATA: u64 = 0x11_0000;
    const STATUS: u64 = 0x12_0000;

    struct Bench {
        memory: Memory,
        block: Block,
    }

    impl Bench {
        fn new() -> Self {
            let pattern = (0..64 * 512_u32).map(|at| (at / 512) as u8).collect();
            let base = StorageDisk::new(Arc::new(Content::new("disk", pattern)));
            let bench = Self {
                memory: Memory::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap(),
                block: Block::new(
                    Arc::new(Overlay::in_memory(Arc::new(base))),
                    "rehost-0".to_owned(),
                ),
            };
            bench
                .memory
                .write_obj(0xee_u8, GuestAddress(STATUS))
                .unwrap();
            bench
        }

        fn header(&self, kind: u32, sector: u64) -> (u64, u32, u16) {
            self.memory.write_obj(kind, GuestAddress(HEADER)).unwrap();
            self.memory
                .write_obj(sector, GuestAddress(HEADER + 8))
                .unwrap();
            (HEADER, 16, 0)
        }

        /// Sends one chain of (address, length, flags) through a queue.
        fn send(&self, parts: &[(u64, u32, u16)]) -> u32 {
            let mock = MockSplitQueue::new(&self.memory, 16);
            let descriptors: Vec<RawDescriptor> = parts
                .iter()
                .map(|(addr, len, flags)| {
                    RawDescriptor::from(Descriptor::new(*addr, *len, *flags, 0))
                })
                .collect();
            mock.build_desc_chain(&descriptors).unwrap();
            self.pop(&mock)
        }

        fn pop(&self, mock: &MockSplitQueue<'_, Memory>) -> u32 {
            let mut queue: Queue = mock.create_queue().unwrap();
            let chain = queue.pop_descriptor_chain(&self.memory).unwrap();
            self.block.answer(&self.memory, chain)
        }

        fn status(&self) -> u8 {
            self.memory.read_obj(GuestAddress(STATUS)).unwrap()
        }
    }

    #[test]
    fn written_sector_reads_back_and_its_neighbours_keep_theirs() {
        let bench = Bench::new();
        bench
            .memory
            .write_slice(&[0xab; 512], GuestAddress(DATA))
            .unwrap();
        let header = bench.header(TYPE_OUT, 5);
        assert_eq!(
            bench.send(&[header, (DATA, 512, 0), (STATUS, 1, WRITABLE)]),
            1
        );
        assert_eq!(bench.status(), 0);
        let header = bench.header(TYPE_IN, 4);
        // The data in two pieces, the second with the status byte at its end.
        let parts = [header, (DATA, 1000, WRITABLE), (DATA + 1000, 537, WRITABLE)];
        assert_eq!(bench.send(&parts), 1537);
        let mut data = vec![0; 1537];
        bench
            .memory
            .read_slice(&mut data, GuestAddress(DATA))
            .unwrap();
        assert_eq!(data[..512], [4; 512]);
        assert_eq!(data[512..1024], [0xab; 512]);
        assert_eq!(data[1024..1536], [6; 512]);
        assert_eq!(data[1536], 0);
    }

    #[test]
    fn flush_and_name_are_answered_and_other_kinds_are_unsupported() {
        let bench = Bench::new();
        let header = bench.header(TYPE_FLUSH, 0);
        assert_eq!(bench.send(&[header, (STATUS, 1, WRITABLE)]), 1);
        assert_eq!(bench.status(), 0);
        let header = bench.header(TYPE_GET_ID, 0);
        assert_eq!(
            bench.send(&[header, (DATA, 20, WRITABLE), (STATUS, 1, WRITABLE)]),
            21
        );
        let mut name = [0; 9];
        bench
            .memory
            .read_slice(&mut name, GuestAddress(DATA))
            .unwrap();
        assert_eq!(&name, b"rehost-0\0");
        for kind in [11, 13, 77] {
            let header = bench.header(kind, 0);
            bench.send(&[header, (DATA, 16, 0), (STATUS, 1, WRITABLE)]);
            assert_eq!(bench.status(), 2);
        }
    }

    #[test]
    fn requests_past_the_end_or_of_parts_of_sectors_are_io_errors() {
        let bench = Bench::new();
        for (sector, len) in [
            (63, 1024),
            (64, 512),
            (u64::MAX, 512),
            (1 << 55, 512),
            (0, 100),
        ] {
            for kind in [TYPE_IN, TYPE_OUT] {
                let header = bench.header(kind, sector);
                let flags = if kind == TYPE_IN { WRITABLE } else { 0 };
                bench
                    .memory
                    .write_obj(0xee_u8, GuestAddress(STATUS))
                    .unwrap();
                assert_eq!(
                    bench.send(&[header, (DATA, len, flags), (STATUS, 1, WRITABLE)]),
                    1
                );
                assert_eq!(bench.status(), 1, "kind {kind} sector {sector} len {len}");
            }
        }
    }

    #[test]
    fn chain_without_a_writable_byte_is_returned_unanswered() {
        let bench = Bench::new();
        let header = bench.header(TYPE_FLUSH, 0);
        assert_eq!(bench.send(&[header]), 0);
        assert_eq!(bench.send(&[header, (STATUS, 1, 0)]), 0);
        assert_eq!(bench.status(), 0xee);
    }

    #[test]
    fn buffers_outside_guest_memory_are_returned_unanswered() {
        let bench = Bench::new();
        let header = bench.header(TYPE_IN, 0);
        for address in [2 << 20, u64::MAX - 100, 1 << 63] {
            assert_eq!(
                bench.send(&[header, (address, 512, WRITABLE), (STATUS, 1, WRITABLE)]),
                0
            );
        }
        assert_eq!(
            bench.send(&[header, (DATA, u32::MAX, WRITABLE), (STATUS, 1, WRITABLE)]),
            0
        );
    }

    #[test]
    fn short_header_is_an_io_error() {
        let bench = Bench::new();
        assert_eq!(bench.send(&[(HEADER, 8, 0), (STATUS, 1, WRITABLE)]), 1);
        assert_eq!(bench.status(), 1);
    }

    #[test]
    fn chain_that_bites_its_tail_ends() {
        let bench = Bench::new();
        let mock = MockSplitQueue::new(&bench.memory, 16);
        let next = 1;
        for index in 0..4_u16 {
            let descriptor = Descriptor::new(HEADER, 16, next, (index + 1) % 4);
            let at = mock.desc_table_addr().0 + u64::from(index) * 16;
            bench
                .memory
                .write_obj(descriptor, GuestAddress(at))
                .unwrap();
        }
        bench
            .memory
            .write_obj(0_u16, GuestAddress(mock.avail_addr().0 + 4))
            .unwrap();
        bench
            .memory
            .write_obj(1_u16, GuestAddress(mock.avail_addr().0 + 2))
            .unwrap();
        assert_eq!(bench.pop(&mock), 0);
    }

    #[test]
    fn request_larger_than_announced_takes_no_memory() {
        // 15 descriptors of 1.5 MiB over the same memory: more than a request may hold.
        let bench = Bench::new();
        let header = bench.header(TYPE_IN, 0);
        let mut parts = vec![header];
        parts.extend([(0, 0x18_0000, WRITABLE); 14]);
        parts.push((STATUS, 1, WRITABLE));
        assert_eq!(bench.send(&parts), 1);
        assert_eq!(bench.status(), 1);
        const { assert!(14 * 0x18_0000 > REQUEST_BYTES) };
        assert_eq!(bench.block.disk.size(), 64 * 512);
    }
}
