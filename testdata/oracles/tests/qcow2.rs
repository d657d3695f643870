//! qcow2-rs reads the images we write and finds nothing wrong with their refcounts.
//!
//! It is given sound images only: flipped header bytes make it crash. It knows neither zstd nor
//! extended L2 entries, so those are left to qemu-img.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use qcow2_rs::dev::Qcow2DevParams;
use qcow2_rs::helpers::Qcow2IoBuf;
use qcow2_rs::utils::qcow2_setup_dev_sync;
use rehost_block::{File, is_zero};
use rehost_image::{Compression, Format, OneFile, Order, TargetSpec, create};

/// Runs a future of the synchronous back end, which never waits.
fn finish<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..1_000_000 {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
    panic!("the synchronous back end waits for something");
}

/// Noise, repetitive text and zeroes in turn, a hundred kilobytes each.
fn content(len: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    (0..len)
        .map(|at| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            match at / 100_000 % 3 {
                0 => state.to_le_bytes()[3],
                1 => b'a' + u8::try_from(at / 5 % 23).unwrap(),
                _ => 0,
            }
        })
        .collect()
}

fn write(path: &Path, disk: &[u8], cluster: u32, compression: Option<Compression>) {
    let mut spec = TargetSpec::new(Format::Qcow2, disk.len() as u64, "judged.qcow2").unwrap();
    spec.compression = compression;
    spec.options
        .parse(&format!("cluster_size={cluster}"))
        .unwrap();
    let storage = Arc::new(File::create_new(path).unwrap());
    let target = create(&spec, storage, &OneFile).unwrap();
    let step = 2 << 20;
    let mut pieces: Vec<(usize, &[u8])> = disk.chunks(step).enumerate().collect();
    if target.order() == Order::Any {
        // Backwards, so that the order in the file is not the guest's.
        pieces.reverse();
    }
    for (index, piece) in pieces {
        if !is_zero(piece) {
            let offset = (index * step) as u64;
            target
                .put(offset, target.pack(offset, piece).unwrap())
                .unwrap();
        }
    }
    target.publish().unwrap();
}

#[test]
fn qcow2_rs_reads_what_we_write() {
    let folder = tempfile::tempdir().unwrap();
    let disk = content(9 << 20);
    for cluster in [4096, 65536, 2 << 20] {
        for compression in [None, Some(Compression::Zlib(1)), Some(Compression::Zlib(6))] {
            let what = format!("clusters of {cluster}, {compression:?}");
            let path = folder.path().join("judged.qcow2");
            write(&path, &disk, cluster, compression);
            let params = Qcow2DevParams::new(9, None, None, true, false);
            let device = qcow2_setup_dev_sync(&path, &params).unwrap();
            finish(device.qcow2_prep_io()).unwrap();
            assert_eq!(device.info.virtual_size(), disk.len() as u64, "{what}");
            let mut buffer = Qcow2IoBuf::<u8>::new(1 << 16);
            for (index, expected) in disk.chunks(1 << 16).enumerate() {
                let offset = (index << 16) as u64;
                let len = finish(device.read_at(&mut buffer, offset)).unwrap();
                assert_eq!(len, expected.len(), "{what} at {offset}");
                let differs = buffer[..len].iter().zip(expected).position(|(a, b)| a != b);
                assert_eq!(differs, None, "{what} at {offset}");
            }
            finish(device.check()).unwrap_or_else(|error| panic!("{what}: {error}"));
            drop(device);
            std::fs::remove_file(path).unwrap();
        }
    }
}
