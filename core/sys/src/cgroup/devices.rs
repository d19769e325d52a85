//! Which devices the processes of a version 2 cgroup may use: a small program that the kernel asks at each use.
//!
//! Version 1 has files for it (`devices.allow`); version 2 has a hook for BPF programs of the type
//! `BPF_PROG_TYPE_CGROUP_DEVICE`. The program gets what is asked (`struct bpf_cgroup_dev_ctx`: kind of access and of device
//! in one word, major and minor number) and answers 1 or 0. It stays with the cgroup until that is removed, and what is
//! below obeys it, too. For each kind of access the last rule that fits decides; what no rule speaks of is refused.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use windlass_model::{Context, Error, Result};

use super::Layout;

/// Kinds of devices and of access, as the kernel numbers them (`BPF_DEVCG_*`).
const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;
const MAKE: u8 = 1;
const READ: u8 = 2;
const WRITE: u8 = 4;
const ALL: u8 = MAKE | READ | WRITE;

/// Commands, types and flags of `bpf(2)`.
const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
/// Programs of the cgroups above go on to be asked.
const ALLOW_MULTI: u32 = 2;

/// One rule, in the OCI specification's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRule {
    /// Whether it allows or refuses.
    pub allow: bool,
    /// `b`, `c` or `u` (which is `c`); `a` is every device, whatever its number.
    pub kind: char,
    /// Nothing is any.
    pub major: Option<u32>,
    /// Nothing is any.
    pub minor: Option<u32>,
    /// Letters of `rwm`.
    pub access: String,
}

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    code: u8,
    /// Destination in the lower half, source in the upper.
    registers: u8,
    offset: i16,
    value: i32,
}

/// The beginning of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    licence: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// The beginning of `union bpf_attr` for `BPF_PROG_ATTACH`.
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

impl DeviceRule {
    /// A rule that allows all access to devices of a kind; absent numbers are any.
    pub fn allow(kind: char, major: Option<u32>, minor: Option<u32>, access: &str) -> Self {
        Self { allow: true, kind, major, minor, access: access.into() }
    }

    fn is_everything(&self) -> bool {
        self.kind == 'a' && self.bits() == ALL
    }

    fn bits(&self) -> u8 {
        let bit = |letter, bit| if self.access.contains(letter) { bit } else { 0 };
        bit('m', MAKE) | bit('r', READ) | bit('w', WRITE)
    }
}

impl Layout {
    /// Restricts a version 2 cgroup to the devices that the rules allow. Nothing happens with version 1, and where the last
    /// rule allows everything.
    ///
    /// # Errors
    /// [`windlass_model::Kind::InvalidArgument`] for a rule that is none; otherwise where the kernel refuses.
    pub fn restrict_devices(&self, cgroup: &str, rules: &[DeviceRule]) -> Result<()> {
        if !self.is_v2() || rules.last().is_some_and(|rule| rule.allow && rule.is_everything()) {
            return Ok(());
        }
        let doing = || format!("restrict the devices of cgroup {cgroup}");
        let program = load(&program(rules)?).context(doing)?;
        let folder = File::open(self.controller(cgroup, "")?).context(doing)?;
        attach(&folder, &program).context(doing)
    }
}

/// Writes the program: the rules from the last to the first, each crossing out what it allows.
fn program(rules: &[DeviceRule]) -> Result<Vec<Instruction>> {
    // r1 points at what is asked; r2 becomes the access that no rule has allowed yet, r3 the kind, r4 and r5 the numbers.
    let mut code = vec![
        instruction(0x61, 2, 1, 0, 0),      // r2 = access and kind
        instruction(0xbf, 3, 2, 0, 0),      // r3 = r2
        instruction(0x54, 3, 0, 0, 0xffff), // r3 &= 0xffff
        instruction(0x74, 2, 0, 0, 16),     // r2 >>= 16
        instruction(0x61, 4, 1, 4, 0),      // r4 = major
        instruction(0x61, 5, 1, 8, 0),      // r5 = minor
    ];
    for rule in rules.iter().rev() {
        code.extend(block(rule)?);
        if rule.is_everything() {
            return Ok(code);
        }
    }
    code.extend(answer(0));
    Ok(code)
}

/// The instructions of one rule; where it does not decide, they lead to what follows them.
fn block(rule: &DeviceRule) -> Result<Vec<Instruction>> {
    let bits = i32::from(rule.bits());
    let decision = match rule.allow {
        _ if rule.is_everything() => answer(rule.allow.into()).to_vec(),
        true => [instruction(0x54, 2, 0, 0, i32::from(ALL) & !bits), instruction(0x56, 2, 0, 2, 0)]
            .into_iter()
            .chain(answer(1))
            .collect(),
        // Jump where one of the bits is set; otherwise over the answer.
        false => {
            [instruction(0x46, 2, 0, 1, bits), instruction(0x05, 0, 0, 2, 0)].into_iter().chain(answer(0)).collect()
        }
    };
    let kind = match rule.kind {
        'a' => None,
        'b' => Some(BLOCK),
        'c' | 'u' => Some(CHARACTER),
        other => return Err(Error::invalid(format!("a device of kind {other:?}"))),
    };
    // The specification lets numbers of `a` be anything.
    let numbers = if kind.is_some() { [rule.major, rule.minor] } else { [None, None] };
    let wanted = [(3, kind), (4, numbers[0].map(u32::cast_signed)), (5, numbers[1].map(u32::cast_signed))];
    let tests: Vec<_> = wanted.into_iter().filter_map(|(register, value)| Some((register, value?))).collect();
    let mut code = Vec::new();
    for (at, (register, value)) in tests.iter().enumerate() {
        let rest = tests.len() - at - 1 + decision.len();
        let rest = i16::try_from(rest).map_err(|_| Error::invalid("too many device rules"))?;
        code.push(instruction(0x56, *register, 0, rest, *value)); // skip unless equal
    }
    code.extend(decision);
    Ok(code)
}

/// Sets the answer and ends.
fn answer(value: i32) -> [Instruction; 2] {
    [instruction(0xb7, 0, 0, 0, value), instruction(0x95, 0, 0, 0, 0)]
}

fn instruction(code: u8, destination: u8, source: u8, offset: i16, value: i32) -> Instruction {
    Instruction { code, registers: source << 4 | destination, offset, value }
}

fn load(code: &[Instruction]) -> io::Result<OwnedFd> {
    let attributes = Load {
        kind: TYPE_CGROUP_DEVICE,
        count: u32::try_from(code.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        instructions: code.as_ptr() as u64,
        licence: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    // JUSTIFICATION: no wrapper of bpf(2) exists without a library in C.
    // SAFETY: the struct is the kernel's layout for this command and is given with its size; the instructions and the text
    // that it points at live through the call and are only read.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const attributes, size_of::<Load>()) };
    let number = i32::try_from(answer).map_err(|_| io::ErrorKind::InvalidData)?;
    if number < 0 {
        return Err(io::Error::last_os_error());
    }
    // JUSTIFICATION: the system call answers a bare number.
    // SAFETY: the kernel has just opened this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn attach(folder: &File, program: &OwnedFd) -> io::Result<()> {
    let attributes = Attach {
        target: folder.as_raw_fd().cast_unsigned(),
        program: program.as_raw_fd().cast_unsigned(),
        kind: ATTACH_CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    // JUSTIFICATION: as above.
    // SAFETY: the struct is the kernel's layout for this command and is given with its size; it holds numbers only.
    match unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, &raw const attributes, size_of::<Attach>()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program answers, as the kernel would run it.
    fn ask(code: &[Instruction], kind: i32, access: u8, major: u32, minor: u32) -> i64 {
        let mut registers = [0i64; 6];
        let context = [i64::from(access) << 16 | i64::from(kind), i64::from(major), i64::from(minor)];
        let mut at = 0usize;
        loop {
            let Instruction { code, registers: named, offset, value } = code[at];
            let (to, from) = (usize::from(named & 15), usize::from(named >> 4));
            at += 1;
            let mut jump = |really: bool| at += if really { usize::try_from(offset).unwrap() } else { 0 };
            match code {
                0x61 => registers[to] = context[usize::try_from(offset).unwrap() / 4],
                0xbf => registers[to] = registers[from],
                0xb7 => registers[to] = i64::from(value),
                0x54 => registers[to] &= i64::from(value.cast_unsigned()),
                0x74 => registers[to] >>= value,
                0x56 => jump(registers[to] as u32 != value.cast_unsigned()),
                0x46 => jump(registers[to] as u32 & value.cast_unsigned() != 0),
                0x05 => jump(true),
                0x95 => return registers[0],
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    fn refuse(kind: char, major: Option<u32>, minor: Option<u32>, access: &str) -> DeviceRule {
        DeviceRule { allow: false, ..DeviceRule::allow(kind, major, minor, access) }
    }

    #[test]
    fn what_no_rule_speaks_of_is_refused() {
        for rules in [vec![], vec![refuse('a', None, None, "rwm")]] {
            let code = program(&rules).unwrap();
            assert_eq!(ask(&code, CHARACTER, READ, 1, 3), 0);
        }
    }

    #[test]
    fn rules_add_up_and_the_last_one_wins() {
        let code = program(&[
            refuse('a', None, None, "rwm"),
            DeviceRule::allow('c', None, None, "m"),
            DeviceRule::allow('c', Some(1), Some(3), "r"),
            DeviceRule::allow('c', Some(1), Some(3), "w"),
            DeviceRule::allow('b', Some(8), None, "rwm"),
            refuse('b', Some(8), Some(1), "w"),
        ])
        .unwrap();
        for (kind, access, major, minor, expected) in [
            (CHARACTER, READ | WRITE, 1, 3, 1),
            (CHARACTER, ALL, 1, 3, 1),
            (CHARACTER, READ, 1, 5, 0),
            (CHARACTER, MAKE, 9, 9, 1),
            (BLOCK, MAKE, 9, 9, 0),
            (BLOCK, ALL, 8, 0, 1),
            (BLOCK, READ | MAKE, 8, 1, 1),
            (BLOCK, READ | WRITE, 8, 1, 0),
            (CHARACTER, READ, 8, 0, 0),
        ] {
            assert_eq!(ask(&code, kind, access, major, minor), expected, "{kind} {access} {major}:{minor}");
        }
    }

    #[test]
    fn everything_hides_what_came_before() {
        let rules = [
            refuse('c', Some(1), None, "rwm"),
            DeviceRule::allow('a', Some(7), None, "rwm"),
            refuse('b', None, None, "w"),
        ];
        let code = program(&rules).unwrap();
        assert_eq!(ask(&code, CHARACTER, READ, 1, 3), 1);
        assert_eq!(ask(&code, BLOCK, WRITE, 1, 3), 0);
        assert!(program(&[DeviceRule::allow('x', None, None, "r")]).is_err());
    }
}
