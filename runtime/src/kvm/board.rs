//! The mainboard: what answers on which port and address.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};

use super::acpi::SLEEP_TYPE_OFF;
use super::clock::{self, Cmos};
use super::events::Events;
use super::pci::Bus;
use super::ports::{
    CLOCK, CLOCK_LAST, KEYBOARD_COMMAND, KEYBOARD_DATA, PCI_ADDRESS, PCI_DATA, PCI_DATA_LAST,
    PM_TIMER, PM_TIMER_LAST, PM1_CONTROL, PM1_CONTROL_LAST, PM1_EVENT, PM1_EVENT_LAST, RESET,
    SERIAL, SERIAL_LAST, SERIAL_LINE, SYSTEM_CONTROL,
};
use super::vm::Vm;
use crate::Ended;

/// The keyboard controller's command that pulses the reset line.
const PULSE_RESET: u8 = 0xfe;
/// The bit of the reset control register that resets.
const RESET_NOW: u8 = 1 << 2;
/// The bit of the system control port that resets.
const FAST_RESET: u8 = 1;
/// PM1 control (ACPI 6.5, table 4.16): ACPI is on, sleep type, sleep now.
const SCI_ENABLED: u16 = 1;
const SLEEP_TYPE_SHIFT: u32 = 10;
const SLEEP_NOW: u16 = 1 << 13;

/// The serial port's interrupt line, which is edge triggered.
#[derive(Debug)]
pub(super) struct SerialLine(Arc<Vm>);

impl Trigger for SerialLine {
    type E = kvm_ioctls::Error;

    fn trigger(&self) -> Result<(), Self::E> {
        self.0.fd().set_irq_line(SERIAL_LINE, true)?;
        self.0.fd().set_irq_line(SERIAL_LINE, false)
    }
}

/// Where the serial port's output goes.
#[derive(Debug)]
pub(super) struct Output(Arc<Events>);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.serial(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// PM1 registers that a guest may set and read back.
#[derive(Debug, Default)]
struct Pm1 {
    enable: u16,
    control: u16,
}

/// All devices that processors reach by ports and memory.
#[derive(Debug)]
pub(super) struct Board<T: Trigger = SerialLine> {
    serial: Mutex<Serial<T, NoEvents, Output>>,
    clock: Mutex<Cmos>,
    pm1: Mutex<Pm1>,
    bus: Bus,
    events: Arc<Events>,
    started: Instant,
}

impl Board {
    /// A board in `vm` with `bus`, which tells `events`.
    pub(super) fn new(vm: Arc<Vm>, bus: Bus, events: Arc<Events>) -> Self {
        Self::with_line(SerialLine(vm), bus, events)
    }
}

impl<T: Trigger> Board<T> {
    fn with_line(line: T, bus: Bus, events: Arc<Events>) -> Self {
        Self {
            serial: Mutex::new(Serial::new(line, Output(Arc::clone(&events)))),
            clock: Mutex::default(),
            pm1: Mutex::default(),
            bus,
            events,
            started: Instant::now(),
        }
    }

    /// An `in` instruction. Ports that nothing answers read as all ones.
    pub(super) fn port_read(&self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        match port {
            SERIAL..=SERIAL_LAST => {
                if let Some(first) = data.first_mut() {
                    *first = lock(&self.serial).read((port - SERIAL) as u8);
                }
            }
            // Nothing waits for the keyboard, and none is there.
            KEYBOARD_DATA | KEYBOARD_COMMAND | SYSTEM_CONTROL => data.fill(0),
            CLOCK_LAST => {
                if let Some(first) = data.first_mut() {
                    *first = lock(&self.clock).read(SystemTime::now());
                }
            }
            PM1_EVENT..=PM1_EVENT_LAST => {
                let [low, high] = lock(&self.pm1).enable.to_le_bytes();
                copy(&[0, 0, low, high], port - PM1_EVENT, data);
            }
            PM1_CONTROL..=PM1_CONTROL_LAST => {
                let control = lock(&self.pm1).control | SCI_ENABLED;
                copy(&control.to_le_bytes(), port - PM1_CONTROL, data);
            }
            PM_TIMER..=PM_TIMER_LAST => {
                let count = clock::pm_timer(self.started);
                copy(&count.to_le_bytes(), port - PM_TIMER, data);
            }
            PCI_ADDRESS => self.bus.read_address(data),
            PCI_DATA..=PCI_DATA_LAST => self.bus.read_data(port - PCI_DATA, data),
            _ => {}
        }
    }

    /// An `out` instruction.
    pub(super) fn port_write(&self, port: u16, data: &[u8]) {
        let Some(&first) = data.first() else {
            return;
        };
        match port {
            SERIAL..=SERIAL_LAST => {
                // Fails only when the interrupt cannot be sent: the machine is going away.
                let _machine_is_going = lock(&self.serial).write((port - SERIAL) as u8, first);
            }
            KEYBOARD_COMMAND if first == PULSE_RESET => self.events.end(Ended::Reset),
            SYSTEM_CONTROL if first & FAST_RESET != 0 => self.events.end(Ended::Reset),
            RESET if data.len() == 1 && first & RESET_NOW != 0 => {
                self.events.end(Ended::Reset);
            }
            CLOCK => lock(&self.clock).select(first),
            CLOCK_LAST => lock(&self.clock).write(first),
            PM1_EVENT..=PM1_EVENT_LAST => self.write_pm1_enable(port - PM1_EVENT, data),
            PM1_CONTROL => self.write_pm1_control(data),
            PCI_ADDRESS => self.bus.write_address(data),
            PCI_DATA..=PCI_DATA_LAST => self.bus.write_data(port - PCI_DATA, data),
            _ => {}
        }
    }

    /// The status half takes no writes: no event ever sets a bit there.
    fn write_pm1_enable(&self, offset: u16, data: &[u8]) {
        let mut pm1 = lock(&self.pm1);
        let mut bytes = pm1.enable.to_le_bytes();
        for (at, byte) in (offset..).zip(data) {
            if let Some(slot) = at
                .checked_sub(2)
                .and_then(|at| bytes.get_mut(usize::from(at)))
            {
                *slot = *byte;
            }
        }
        pm1.enable = u16::from_le_bytes(bytes);
    }

    fn write_pm1_control(&self, data: &[u8]) {
        let [low, high] = match *data {
            [low, high, ..] => [low, high],
            _ => return,
        };
        let control = u16::from_le_bytes([low, high]);
        let sleep_type = control >> SLEEP_TYPE_SHIFT & 7;
        if control & SLEEP_NOW != 0 && sleep_type == u16::from(SLEEP_TYPE_OFF) {
            self.events.end(Ended::PoweredOff);
        }
        lock(&self.pm1).control = control & !SLEEP_NOW;
    }

    /// A read of memory that is not RAM.
    pub(super) fn memory_read(&self, address: u64, data: &mut [u8]) {
        self.bus.memory_read(address, data);
    }

    /// A write to memory that is not RAM.
    pub(super) fn memory_write(&self, address: u64, data: &[u8]) {
        self.bus.memory_write(address, data);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn copy(register: &[u8], from: u16, data: &mut [u8]) {
    for (slot, byte) in data.iter_mut().zip(register.iter().skip(usize::from(from))) {
        *slot = *byte;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::kvm::events::Told;
    use crate::kvm::pci::HostBridge;
    use crate::kvm::ports::RESET_HARD;

    #[derive(Debug)]
    struct NoLine;

    impl Trigger for NoLine {
        type E = io::Error;

        fn trigger(&self) -> io::Result<()> {
            Ok(())
        }
    }

    fn board() -> Board<NoLine> {
        let bus = Bus::new(vec![Arc::new(HostBridge::default())]);
        Board::with_line(NoLine, bus, Arc::default())
    }

    fn told(board: &Board<NoLine>) -> Told {
        board.events.wait(Instant::now() + Duration::from_secs(60))
    }

    #[test]
    fn bytes_sent_to_the_serial_port_are_told() {
        let board = board();
        for byte in b"ok" {
            board.port_write(SERIAL, &[*byte]);
        }
        assert_eq!(told(&board), Told::Serial(b"ok".to_vec()));
        // Transmitter empty: a guest that waits for it goes on.
        let mut status = [0];
        board.port_read(SERIAL + 5, &mut status);
        assert_eq!(status[0] & 0x60, 0x60);
    }

    #[test]
    fn sleep_state_five_powers_off_and_others_do_not() {
        let board = board();
        board.port_write(PM1_CONTROL, &(SLEEP_NOW | 1 << 10).to_le_bytes());
        assert!(!board.events.over());
        let off = SLEEP_NOW | u16::from(SLEEP_TYPE_OFF) << SLEEP_TYPE_SHIFT;
        board.port_write(PM1_CONTROL, &off.to_le_bytes());
        assert_eq!(told(&board), Told::Ended(Ended::PoweredOff));
    }

    #[test]
    fn every_way_to_reset_is_told_as_reset() {
        for (port, value) in [
            (KEYBOARD_COMMAND, PULSE_RESET),
            (SYSTEM_CONTROL, FAST_RESET),
            (RESET, RESET_HARD),
        ] {
            let board = board();
            board.port_write(port, &[value]);
            assert_eq!(told(&board), Told::Ended(Ended::Reset), "{port:#x}");
        }
    }

    #[test]
    fn address_of_a_configuration_access_does_not_reset() {
        let board = board();
        board.port_write(PCI_ADDRESS, &0x8000_0000_u32.to_le_bytes());
        let mut id = [0; 4];
        board.port_read(PCI_DATA, &mut id);
        assert_eq!(id, [0x86, 0x80, 0x57, 0x0d]);
        assert!(!board.events.over());
    }

    #[test]
    fn event_enable_reads_back_and_status_stays_clear() {
        let board = board();
        board.port_write(PM1_EVENT, &[0xff, 0xff, 0x20, 0x01]);
        let mut block = [0; 4];
        board.port_read(PM1_EVENT, &mut block);
        assert_eq!(block, [0, 0, 0x20, 0x01]);
        let mut control = [0; 2];
        board.port_read(PM1_CONTROL, &mut control);
        assert_eq!(u16::from_le_bytes(control) & SCI_ENABLED, SCI_ENABLED);
    }

    #[test]
    fn ports_without_a_device_read_as_ones() {
        let board = board();
        let mut data = [0; 4];
        board.port_read(0x1f7, &mut data);
        assert_eq!(data, [0xff; 4]);
        board.memory_read(0xd000_0000, &mut data);
        assert_eq!(data, [0xff; 4]);
    }
}
