//! Seeds made by hand: files that no tool here writes, and text.

mod guests;

use super::{Seed, disk, texts};
use crate::Target;
use crate::members::{input, made};

/// Bytes per sector.
const SECTOR: usize = 512;

/// A descriptor with a line for each kind of extent.
const DESCRIPTOR: &str = r##"# Disk DescriptorFile
version=1
encoding="UTF-8"
CID=fffffffe
parentCID=ffffffff
isNativeSnapshot="no"
createType="custom"

# Extent description
RW 64 FLAT "flat.vmdk" 0
RW 32 FLAT "flat.vmdk" 64
RDONLY 8 ZERO
NOACCESS 8 FLAT "gone.vmdk" 0
RW 16 VMFS "flat.vmdk"

# The Disk Data Base
#DDB
ddb.virtualHWVersion = "13"
ddb.geometry.cylinders = "1"
ddb.geometry.heads = "16"
ddb.geometry.sectors = "63"
ddb.adapterType = "lsilogic"
ddb.uuid = "60 00 C2 9f 1a 2b 3c 4d-5e 6f 70 81 92 a3 b4 c5"
"##;

/// A folder's descriptor with two stretches, a plain and an expanding image, and a snapshot.
const BUNDLE: &str = r#"<?xml version='1.0' encoding='UTF-8'?>
<Parallels_disk_image Version="1.0">
 <Disk_Parameters><Disk_size>256</Disk_size><Cylinders>1</Cylinders><Heads>16</Heads><Sectors>63</Sectors>
  <Padding>0</Padding><Encryption><Engine>{00000000-0000-0000-0000-000000000000}</Engine></Encryption>
  <UID>{2dd2dd2d-6b0c-4d0e-8f0b-6f1c8a0d2b12}</UID><Name>disk</Name></Disk_Parameters>
 <StorageData><Storage><Start>0</Start><End>128</End><Blocksize>64</Blocksize>
  <Image><GUID>{5fbaabe3-6958-40ff-92a7-860e329aab41}</GUID><Type>Plain</Type><File>a.hds</File></Image>
 </Storage><Storage><Start>128</Start><End>256</End><Blocksize>64</Blocksize>
  <Image><GUID>{5fbaabe3-6958-40ff-92a7-860e329aab41}</GUID><Type>Compressed</Type><File>b.hds</File></Image>
 </Storage></StorageData>
 <Snapshots><Shot><GUID>{5fbaabe3-6958-40ff-92a7-860e329aab41}</GUID>
  <ParentGUID>{00000000-0000-0000-0000-000000000000}</ParentGUID></Shot></Snapshots>
</Parallels_disk_image>
"#;

/// A machine with what they have.
const MACHINE: &str = r#".encoding = "UTF-8"
config.version = "8"
virtualHW.version = "19"
displayName = "web|22 server"
guestOS = "debian11-64"
firmware = "efi"
uefi.secureBoot.enabled = "FALSE"
memSize = "2048"
numvcpus = "2"
cpuid.coresPerSocket = "2"
scsi0.present = "TRUE"
scsi0.virtualDev = "pvscsi"
scsi0:0.present = "TRUE"
scsi0:0.fileName = "disk.vmdk"
scsi0:0.deviceType = "scsi-hardDisk"
sata0.present = "TRUE"
sata0:1.present = "TRUE"
sata0:1.deviceType = "cdrom-image"
sata0:1.fileName = "cd.iso"
nvme0.present = "TRUE"
nvme0:0.present = "TRUE"
nvme0:0.fileName = "fast.vmdk"
nvme0:0.mode = "independent-persistent"
ethernet0.present = "TRUE"
ethernet0.virtualDev = "vmxnet3"
ethernet0.networkName = "VM Network"
ethernet0.addressType = "static"
ethernet0.address = "00:50:56:00:00:01"
uuid.bios = "56 4d 11 22 33 44 55 66-77 88 99 aa bb cc dd ee"
"#;

const DOMAIN: &str = r#"<domain type='kvm' id='7'>
  <name>web &amp; mail</name>
  <uuid>564d9989-a721-910d-cc28-e2dbd54b2b8c</uuid>
  <memory unit='KiB'>2097153</memory>
  <vcpu placement='static' current='2'>8</vcpu>
  <os firmware='efi'>
    <type arch='x86_64' machine='pc-q35-7.2'>hvm</type>
    <firmware><feature enabled='yes' name='secure-boot'/></firmware>
    <loader readonly='yes' type='pflash'>/x/OVMF_CODE.fd</loader>
  </os>
  <cpu><topology sockets='2' dies='1' cores='2' threads='2'/></cpu>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file='disk.qcow2'/>
      <target dev='sda' bus='scsi'/>
      <boot order='1'/>
      <address type='drive' controller='1' bus='0' target='0' unit='0'/>
    </disk>
    <disk type='block'><source dev='/dev/sdb'/><target dev='vdb'/></disk>
    <controller type='scsi' index='1' model='virtio-scsi'/>
    <interface type='bridge'>
      <mac address='52:54:00:AB:cd:01'/>
      <source bridge='br0'/>
      <model type='virtio'/>
      <address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x0'/>
    </interface>
    <tpm model='tpm-crb'/>
  </devices>
</domain>
"#;

pub(super) fn seeds(target: Target) -> Vec<Seed> {
    let made = match target {
        Target::Vmdk => vec![("descriptor", DESCRIPTOR.as_bytes().to_vec())],
        Target::Cowd => vec![("cowd", cowd())],
        Target::SeSparse => vec![("sesparse", se_sparse())],
        Target::Parallels => vec![("bundle", BUNDLE.as_bytes().to_vec())],
        Target::Partitions => vec![("mbr", mbr())],
        Target::Lvm => vec![
            ("two", input(&made::lvm())),
            ("thin", input(&[thin_disk()])),
        ],
        Target::Thin => vec![("thin", made::thin())],
        Target::Md => arrays(),
        Target::Stack => vec![("mirror", mirror())],
        Target::Modules => vec![
            ("dep", texts::MODULES_DEP.to_vec()),
            ("alias", texts::MODULES_ALIAS.to_vec()),
            ("softdep", texts::MODULES_SOFTDEP.to_vec()),
        ],
        Target::Guest => vec![
            ("debian", texts::DEBIAN.to_vec()),
            ("fedora", texts::FEDORA.to_vec()),
            ("alpine", texts::ALPINE.to_vec()),
        ],
        Target::Nbd => vec![("old", nbd_old()), ("new", nbd_new())],
        Target::Vmx => vec![("machine", MACHINE.as_bytes().to_vec())],
        Target::Domain => vec![("domain", DOMAIN.as_bytes().to_vec())],
        Target::Deflate => deflate(),
        Target::RpmDatabase => guests::databases(),
        Target::Unified => vec![("unified", guests::unified())],
        _ => Vec::new(),
    };
    let seed = |(name, file): (&str, Vec<u8>)| Seed::new(name, &file);
    made.into_iter().filter_map(seed).collect()
}

/// A physical volume with a thin pool, metadata included.
fn thin_disk() -> Vec<u8> {
    let mut disk = made::physical(0, &made::thin_group(), 64);
    made::put(&mut disk, made::EXTENTS, &made::thin());
    disk
}

/// Arrays of every level.
fn arrays() -> Vec<(&'static str, Vec<u8>)> {
    let mut data = vec![0; 16 << 10];
    for (nth, sector) in data.chunks_mut(SECTOR).enumerate() {
        sector[0] = u8::try_from(nth + 1).unwrap();
    }
    let made = |level, layout, members| input(&made::md(level, layout, members, &data));
    vec![
        ("linear", made(-1, 0, 2)),
        ("raid0", made(0, 2, 3)),
        ("raid1", made(1, 0, 2)),
        ("raid4", made(4, 0, 3)),
        ("raid5", made(5, 2, 4)),
        ("raid6", made(6, 18, 5)),
        ("near", made(10, 0x102, 3)),
        ("far", made(10, 0x202, 4)),
        ("offset", made(10, 0x1_0201, 3)),
        ("degraded", input(&made::md(6, 2, 5, &data)[1..4])),
    ]
}

/// Two disks whose partitions mirror a physical volume.
fn mirror() -> Vec<u8> {
    let volumes = made::lvm().remove(0);
    let members = made::md(1, 0, 2, &volumes);
    let disks: Vec<Vec<u8>> = members.iter().map(|one| made::partitioned(one)).collect();
    input(&disks)
}

fn put(file: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if file.len() < at + bytes.len() {
        file.resize(at + bytes.len(), 0);
    }
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

/// 64 grains of a sector, every third one stored.
fn cowd() -> Vec<u8> {
    let mut file = b"COWD".to_vec();
    for (at, value) in [(4, 1u32), (8, 3), (12, 64), (16, 1), (20, 4), (24, 1)] {
        put(&mut file, at, &value.to_le_bytes());
    }
    put(&mut file, 4 * SECTOR, &5u32.to_le_bytes());
    put(&mut file, 2047, &[0]);
    let first = 5 + 4096 * 4 / SECTOR;
    for nth in (0..64).step_by(3) {
        let sector = u32::try_from(first + nth / 3).unwrap();
        put(&mut file, 5 * SECTOR + nth * 4, &sector.to_le_bytes());
        put(&mut file, (first + nth / 3) * SECTOR, &[5; SECTOR]);
    }
    file
}

/// 64 grains of 4 KiB: absent, unmapped, zero and stored ones in turn.
fn se_sparse() -> Vec<u8> {
    let mut file = Vec::new();
    // Directory at sector 64 (one sector), tables at 128, bitmap, back map and grains behind.
    let head = [
        0xcafe_babe,
        0x2_0000_0001,
        512,
        8,
        64,
        0,
        0,
        0,
        0,
        0,
        1,
        1,
        2,
        2,
        8,
        8,
        64,
        8,
        128,
        64,
        192,
        8,
        200,
        8,
        208,
        256u64,
    ];
    for (nth, value) in head.iter().enumerate() {
        put(&mut file, nth * 8, &value.to_le_bytes());
    }
    put(&mut file, SECTOR, &0xcafe_cafe_u64.to_le_bytes());
    put(&mut file, 64 * SECTOR, &(1u64 << 60).to_le_bytes());
    for nth in 0..64usize {
        let grain = nth as u64 / 4;
        let entry = match nth % 4 {
            0 => 0,
            1 => 1 << 60,
            2 => 2 << 60,
            _ => 3 << 60 | (grain & 0xfff) << 48 | grain >> 12,
        };
        put(&mut file, 128 * SECTOR + nth * 8, &u64::to_le_bytes(entry));
    }
    put(&mut file, (208 + 256) * SECTOR - 1, &[1]);
    file
}

/// A DOS table with a primary partition and a chain of two logical ones.
fn mbr() -> Vec<u8> {
    let mut disk = vec![0; 600 * SECTOR];
    let mut entry = |at: usize, nth: usize, kind: u8, start: u32, len: u32| {
        let place = at * SECTOR + 446 + nth * 16;
        disk[place + 4] = kind;
        disk[place + 8..place + 12].copy_from_slice(&start.to_le_bytes());
        disk[place + 12..place + 16].copy_from_slice(&len.to_le_bytes());
        disk[at * SECTOR + 510..at * SECTOR + 512].copy_from_slice(&[0x55, 0xaa]);
    };
    entry(0, 0, 0x83, 64, 100);
    entry(0, 1, 0x05, 200, 400);
    entry(200, 0, 0x83, 8, 50);
    entry(200, 1, 0x05, 100, 100);
    entry(300, 0, 0x82, 8, 50);
    disk[440..444].copy_from_slice(&[1, 2, 3, 4]);
    disk
}

fn nbd_option(bytes: &mut Vec<u8>, number: u32, content: &[u8]) {
    bytes.extend(b"IHAVEOPT");
    bytes.extend(number.to_be_bytes());
    bytes.extend(u32::try_from(content.len()).unwrap().to_be_bytes());
    bytes.extend(content);
}

fn nbd_request(bytes: &mut Vec<u8>, flags: u16, command: u16, offset: u64, len: u32) {
    bytes.extend(0x2560_9513u32.to_be_bytes());
    bytes.extend(flags.to_be_bytes());
    bytes.extend(command.to_be_bytes());
    bytes.extend(77u64.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(len.to_be_bytes());
}

/// Every command, with simple replies.
fn nbd_old() -> Vec<u8> {
    let mut bytes = 3u32.to_be_bytes().to_vec();
    nbd_option(&mut bytes, 3, b"");
    nbd_option(&mut bytes, 1, b"d");
    nbd_requests(&mut bytes);
    bytes
}

/// Every command, with structured replies and block status.
fn nbd_new() -> Vec<u8> {
    let mut bytes = 3u32.to_be_bytes().to_vec();
    nbd_option(&mut bytes, 8, b"");
    let mut context = vec![0, 0, 0, 1, b'd', 0, 0, 0, 1, 0, 0, 0, 15];
    context.extend(b"base:allocation");
    nbd_option(&mut bytes, 9, &context);
    nbd_option(&mut bytes, 10, &context);
    nbd_option(&mut bytes, 6, &[0, 0, 0, 1, b'd', 0, 1, 0, 3]);
    nbd_option(&mut bytes, 7, &[0, 0, 0, 1, b'd', 0, 0]);
    nbd_requests(&mut bytes);
    nbd_request(&mut bytes, 8, 7, 0, 65_536);
    bytes
}

fn nbd_requests(bytes: &mut Vec<u8>) {
    nbd_request(bytes, 0, 0, 0, 512);
    nbd_request(bytes, 1, 1, 100, 9);
    bytes.extend(b"nine byte");
    nbd_request(bytes, 0, 3, 0, 0);
    nbd_request(bytes, 0, 4, 512, 512);
    nbd_request(bytes, 2, 6, 1024, 4096);
    nbd_request(bytes, 0, 0, 0, 65_536);
}

fn deflate() -> Vec<(&'static str, Vec<u8>)> {
    let unit = |level: u8, plain: &[u8]| [&[level], plain].concat();
    let disk = disk();
    vec![
        ("fast", unit(0, &disk[..4096])),
        ("middle", unit(5, &disk[69_000..73_000])),
        ("small", unit(8, &disk[..2000])),
        ("nothing", unit(5, b"")),
    ]
}
