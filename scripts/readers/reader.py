"""What other people's libraries read from a disk image.

usage: reader.py FORMAT IMAGE [PARENT...]

FORMAT is vmdk, vhd, vhdx, vdi or qcow2. Prints a line for each library that reads the format:
NAME SIZE SHA256, or NAME error MESSAGE.
"""

import hashlib
import sys
from pathlib import Path

# Read in longer pieces, libvhdi takes sectors of a differencing disk from the wrong one of its files.
PIECE = 1 << 16


def libvmdk(image, parents):
    import pyvmdk

    parent = None
    # The farthest ancestor first: each handle is told of the one below it.
    for path in [*reversed(parents), image]:
        handle = pyvmdk.handle()
        handle.open(str(path))
        handle.open_extent_data_files()
        if parent is not None:
            handle.set_parent(parent)
        parent = handle
    return parent.get_media_size(), parent


def libvhdi(image, parents):
    import pyvhdi

    parent = None
    for path in [*reversed(parents), image]:
        file = pyvhdi.file()
        file.open(str(path))
        if parent is not None:
            file.set_parent(parent)
        parent = file
    return parent.get_media_size(), parent


def alone(parents):
    if parents:
        raise ValueError("reads no parents")


def dissect_vmdk(image, parents):
    # Finds the parents that the image names by itself. Reads disks of whole 8 KiB only.
    from dissect.hypervisor.disk.vmdk import VMDK

    disk = VMDK(image)
    return disk.size, disk


def dissect_vhd(image, parents):
    from dissect.hypervisor.disk.vhd import VHD

    alone(parents)
    disk = VHD(image.open("rb"))
    return disk.size, disk


def dissect_vhdx(image, parents):
    # Finds the parents that the image names by itself.
    from dissect.hypervisor.disk.vhdx import VHDX

    disk = VHDX(image)
    return disk.size, disk


def dissect_vdi(image, parents):
    from dissect.hypervisor.disk.vdi import VDI

    alone(parents)
    disk = VDI(image).open()
    return disk.size, disk


def dissect_qcow2(image, parents):
    from dissect.hypervisor.disk.qcow2 import QCow2

    alone(parents)
    disk = QCow2(image).open()
    return disk.size, disk


READERS = {
    "vmdk": {"libvmdk": libvmdk, "dissect": dissect_vmdk},
    "vhd": {"libvhdi": libvhdi, "dissect": dissect_vhd},
    "vhdx": {"libvhdi": libvhdi, "dissect": dissect_vhdx},
    "vdi": {"dissect": dissect_vdi},
    "qcow2": {"dissect": dissect_qcow2},
}


def sha256(disk, size):
    digest = hashlib.sha256()
    left = size
    disk.seek(0)
    while left:
        piece = disk.read(min(PIECE, left))
        if not piece:
            raise ValueError(f"ends {left} bytes early")
        digest.update(piece)
        left -= len(piece)
    return digest.hexdigest()


def main(arguments):
    if len(arguments) < 2 or arguments[0] not in READERS:
        sys.exit(__doc__)
    image, *parents = [Path(name) for name in arguments[1:]]
    for name, read in READERS[arguments[0]].items():
        # Whatever a library throws is its answer.
        try:
            size, disk = read(image, parents)
            print(name, size, sha256(disk, size))
        except Exception as error:
            print(name, "error", " ".join(str(error).split()) or type(error).__name__)


if __name__ == "__main__":
    main(sys.argv[1:])
