//! The installed system: systemd, System V init, OpenRC, and the login prompt.

use super::entry;
use crate::recognise::Meaning::{Failed, Login, Progress, Ready, Stuck, Trouble};
use crate::recognise::Shape::{Line, Prompt};
use crate::recognise::{Recogniser, Stage};

pub(super) const TABLE: &[Recogniser] = &[
    // getty, agetty: the proof. "Last login:" is what login prints after it.
    Recogniser {
        id: "login-prompt",
        shape: Prompt,
        pattern: r"^([A-Za-z0-9][A-Za-z0-9._-]{0,63}|\(none\)) login: ",
        except: Some(r"^Last login: "),
        meaning: Login,
        says: "reached the login prompt",
    },
    // systemd.
    entry(
        "switch-root",
        Line,
        r"Switching root\.|Starting (initrd-switch-root\.service|Switch Root)",
        Progress(Stage::Root),
        "left its initramfs",
    ),
    entry(
        "systemd",
        Line,
        r"systemd\[1\]: systemd [0-9][^ ]* running in system mode",
        Progress(Stage::Initramfs),
        "started systemd",
    ),
    Recogniser {
        id: "welcome",
        shape: Line,
        pattern: r"^Welcome to .+!$",
        except: Some(r"^Welcome to (GRUB|emergency mode|rescue mode)!|\(Initramfs\)!"),
        meaning: Progress(Stage::Init),
        says: "started the installed system's init",
    },
    entry(
        // Said in a dracut initramfs too, so it proves no more than that.
        "local-file-systems",
        Line,
        r"Reached target (\S+ - )?Local File Systems",
        Progress(Stage::Initramfs),
        "mounted its file systems",
    ),
    entry(
        "device-timeout",
        Line,
        r"Timed out waiting for device|Timed out waiting for (dev-\S+\.device)",
        Trouble,
        "waited in vain for a device",
    ),
    entry(
        "unit-failed",
        Line,
        r"\[(FAILED|DEPEND)\]|systemd\[1\]: (Failed to start|Failed to mount|Dependency failed for) ",
        Trouble,
        "could not start a service",
    ),
    entry(
        "emergency-mode",
        Line,
        r"You are in emergency mode|Welcome to emergency mode!",
        Failed,
        "started in emergency mode",
    ),
    entry(
        "rescue-mode",
        Line,
        r"You are in rescue mode|Welcome to rescue mode!",
        Failed,
        "started in rescue mode",
    ),
    entry(
        "root-locked",
        Line,
        r"Cannot open access to console, the root account is locked",
        Failed,
        "stopped in emergency mode with its root account locked",
    ),
    entry(
        "sulogin",
        Prompt,
        r"^(Give root password for (maintenance|system maintenance|login)|Press Enter for (system )?maintenance|Enter root password for )",
        Stuck,
        "asks for the root password for maintenance",
    ),
    entry(
        "multi-user",
        Line,
        r"Reached target (multi-user\.target - )?Multi-User System|Reached target multi-user\.target",
        Ready,
        "reached its multi-user target",
    ),
    entry(
        "graphical",
        Line,
        r"Reached target (graphical\.target - )?Graphical Interface|Reached target graphical\.target",
        Ready,
        "reached its graphical target",
    ),
    // System V init, OpenRC.
    entry(
        "sysv-init",
        Line,
        r"^INIT: version [0-9.]+ booting",
        Progress(Stage::Init),
        "started the installed system's init",
    ),
    entry(
        "sysv-runlevel",
        Line,
        r"^INIT: Entering runlevel: [2-5]",
        Ready,
        "entered its normal runlevel",
    ),
    entry(
        "sysv-respawn",
        Line,
        r"^INIT: Id .* respawning too fast",
        Trouble,
        "could not keep a login program running",
    ),
    entry(
        "openrc",
        Line,
        r"OpenRC [0-9.]+.* is starting up",
        Progress(Stage::Init),
        "started the installed system's init",
    ),
    entry(
        "openrc-default",
        Line,
        r"Caching service dependencies|Starting local \.\.\.",
        Progress(Stage::Services),
        "started its services",
    ),
];
