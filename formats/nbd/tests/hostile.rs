//! Clients that break the protocol: each is one named error, and the next client is served.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use common::disk;
use proptest::prelude::*;
use rehost_nbd::{Export, Running, Server};
use tempfile::tempdir;

const IHAVEOPT: &[u8] = b"IHAVEOPT";

fn serve(path: &Path) -> Running {
    let (disk, _) = disk();
    Server::bind(path, vec![Export::writable("d", disk)])
        .unwrap()
        .spawn()
        .unwrap()
}

fn connect(path: &Path) -> UnixStream {
    let mut client = UnixStream::connect(path).unwrap();
    let mut greeting = [0; 18];
    client.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting[..8], b"NBDMAGIC");
    client
}

/// What is left to read until the server hangs up.
fn drain(mut client: UnixStream) -> Vec<u8> {
    let mut rest = Vec::new();
    // A reset is an end too.
    let _ = client.read_to_end(&mut rest);
    rest
}

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = IHAVEOPT.to_vec();
    bytes.extend(number.to_be_bytes());
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend(data);
    bytes
}

fn request(flags: u16, command: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    let mut bytes = 0x2560_9513u32.to_be_bytes().to_vec();
    bytes.extend(flags.to_be_bytes());
    bytes.extend(command.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(len.to_be_bytes());
    bytes
}

/// Enters the transmission phase with simple replies and no zeroes.
fn enter(path: &Path) -> UnixStream {
    let mut client = connect(path);
    client.write_all(&3u32.to_be_bytes()).unwrap();
    client.write_all(&option(1, b"d")).unwrap();
    let mut answer = [0; 10];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer[..8], (4u64 << 20).to_be_bytes());
    client
}

/// The error number of the next simple reply.
fn errno(client: &mut UnixStream) -> u32 {
    let mut reply = [0; 16];
    client.read_exact(&mut reply).unwrap();
    assert_eq!(reply[..4], 0x6744_6698u32.to_be_bytes());
    u32::from_be_bytes(reply[4..8].try_into().unwrap())
}

/// The server hangs up after `bytes` and names the fault.
fn breaks(bytes: &[u8], entered: bool, named: &str) {
    let folder = tempdir().unwrap();
    let path = folder.path().join("s");
    let server = serve(&path);
    let mut client = if entered {
        enter(&path)
    } else {
        connect(&path)
    };
    client.write_all(bytes).unwrap();
    drain(client);
    // The error is reported before the connection ends.
    let errors = server.take_errors();
    assert!(
        errors.iter().any(|error| error.to_string().contains(named)),
        "no {named:?} in {errors:?}"
    );
    enter(&path);
}

#[test]
fn unknown_client_flags() {
    breaks(
        &0x8000_0000u32.to_be_bytes(),
        false,
        "NBD client flags: unknown flag",
    );
}

#[test]
fn wrong_option_magic() {
    let mut bytes = 3u32.to_be_bytes().to_vec();
    bytes.extend([b'x'; 16]);
    breaks(&bytes, false, "NBD option: wrong magic");
}

#[test]
fn option_longer_than_any_name() {
    let mut bytes = 3u32.to_be_bytes().to_vec();
    bytes.extend(IHAVEOPT);
    bytes.extend(7u32.to_be_bytes());
    bytes.extend(u32::MAX.to_be_bytes());
    breaks(&bytes, false, "option data is too long");
}

#[test]
fn unknown_export_by_the_old_option() {
    let mut bytes = 3u32.to_be_bytes().to_vec();
    bytes.extend(option(1, b"nosuch\n"));
    breaks(&bytes, false, "no export is called 'nosuch\\n'");
}

#[test]
fn client_that_never_chooses() {
    let mut bytes = 3u32.to_be_bytes().to_vec();
    for _ in 0..1024 {
        bytes.extend(option(99, b""));
    }
    let folder = tempdir().unwrap();
    let path = folder.path().join("s");
    let server = serve(&path);
    let mut client = connect(&path);
    let mut reader = client.try_clone().unwrap();
    let reading = std::thread::spawn(move || {
        let mut rest = Vec::new();
        let _ = reader.read_to_end(&mut rest);
        rest
    });
    client.write_all(&bytes).unwrap();
    let replies = reading.join().unwrap();
    // Every one was refused by name before the patience ended.
    assert!(replies.len() > 1024 * 20);
    assert!(replies.windows(23).any(|w| w == b"option is not supported"));
    assert!(server.take_errors()[0].to_string().contains("never chose"));
}

#[test]
fn wrong_request_magic() {
    breaks(&[b'x'; 28], true, "NBD request: wrong magic");
}

#[test]
fn write_longer_than_the_limit() {
    breaks(&request(0, 1, 1, 0, u32::MAX), true, "write is too long");
}

#[test]
fn connection_cut_inside_a_write() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("s");
    let server = serve(&path);
    let mut client = enter(&path);
    client.write_all(&request(0, 1, 1, 0, 65_536)).unwrap();
    client.write_all(&[1; 1000]).unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(drain(client).is_empty());
    assert!(
        server.take_errors()[0]
            .to_string()
            .contains("inside a request")
    );
}

#[test]
fn ranges_past_the_end_and_unknown_commands_are_errors_that_keep_the_connection() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("s");
    let server = serve(&path);
    let mut client = enter(&path);
    let size = 4u64 << 20;
    for (bytes, expected) in [
        (request(0, 0, 1, size, 1), 22),
        (request(0, 0, 1, u64::MAX, u32::MAX), 22),
        (request(0, 0, 1, 0, (32 << 20) + 1), 22),
        (request(0, 4, 1, size - 1, 2), 22),
        (request(0, 6, 1, size - 1, 2), 28),
        // Block status without a context, data-in-one-chunk without structured replies.
        (request(0, 7, 1, 0, 512), 22),
        (request(4, 0, 1, 0, 512), 22),
        (request(0, 77, 1, 0, 0), 22),
        (request(0x8000, 3, 1, 0, 0), 22),
        (request(0, 3, 1, 0, 0), 0),
    ] {
        client.write_all(&bytes).unwrap();
        assert_eq!(errno(&mut client), expected, "{bytes:?}");
    }
    // The payload of a refused write is taken off the wire.
    client.write_all(&request(0, 1, 1, size - 1, 2)).unwrap();
    client.write_all(&request(0, 77, 2, 0, 0)[..2]).unwrap();
    assert_eq!(errno(&mut client), 28);
    client.write_all(&request(0, 0, 3, 7, 4)).unwrap();
    assert_eq!(errno(&mut client), 0);
    let mut bytes = [0; 4];
    client.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, [7, 8, 9, 10]);
    client.write_all(&request(0, 2, 4, 0, 0)).unwrap();
    assert!(drain(client).is_empty());
    assert!(server.take_errors().is_empty());
}

#[test]
fn a_long_simple_read_is_whole() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("s");
    let _server = serve(&path);
    let mut client = enter(&path);
    client
        .write_all(&request(0, 0, 1, 1, (4 << 20) - 1))
        .unwrap();
    assert_eq!(errno(&mut client), 0);
    let mut found = vec![0; (4 << 20) - 1];
    client.read_exact(&mut found).unwrap();
    assert!(found == disk().1[1..]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_options_then_any_requests_never_stop_the_server(
        options in prop::collection::vec((0..12u32, prop::collection::vec(any::<u8>(), 0..40)), 0..6),
        requests in prop::collection::vec((any::<u16>(), 0..9u16, any::<u64>(), 0..100_000u32), 0..6),
        noise in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let folder = tempdir().unwrap();
        let path = folder.path().join("s");
        let server = serve(&path);
        let mut client = connect(&path);
        let mut bytes = 3u32.to_be_bytes().to_vec();
        for (number, data) in &options {
            bytes.extend(option(*number, data));
        }
        bytes.extend(option(1, b"d"));
        for (flags, command, offset, len) in &requests {
            bytes.extend(request(flags & 15, *command, 1, offset % (5 << 20), *len));
        }
        bytes.extend(noise);
        // The server may hang up early.
        let _ = client.write_all(&bytes);
        let _ = client.shutdown(std::net::Shutdown::Write);
        drain(client);
        enter(&path);
        for error in server.take_errors() {
            prop_assert_ne!(error.kind(), rehost_block::Kind::Internal);
        }
    }
}
