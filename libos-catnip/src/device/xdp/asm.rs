//! A small assembler for the kernel's BPF machine (RFC 9669): the few instructions that the redirect program uses.
//!
//! Invariant: jumps go forward, to labels that are placed exactly once, and no instruction is emitted that cannot be
//! reached, for the kernel refuses programs that have one. Words and halves of a frame are in network order and compared
//! with constants in that order, so nothing is swapped at run time.

/// One instruction, as the kernel reads it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Insn {
    pub(super) code: u8,
    /// Destination in the low four bits, source in the high ones.
    pub(super) regs: u8,
    pub(super) offset: i16,
    pub(super) constant: i32,
}

/// A register of the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Reg {
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
}

pub(super) use Reg::*;

/// A place to jump to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Label(usize);

pub(super) const LOAD_WORD: u8 = 0x61;
pub(super) const LOAD_HALF: u8 = 0x69;
pub(super) const LOAD_BYTE: u8 = 0x71;
pub(super) const LOAD_WIDE: u8 = 0x18;
pub(super) const SET: u8 = 0xb7;
pub(super) const COPY: u8 = 0xbf;
pub(super) const ADD: u8 = 0x0f;
pub(super) const ADD_CONSTANT: u8 = 0x07;
pub(super) const AND: u8 = 0x57;
pub(super) const SHIFT_LEFT: u8 = 0x67;
pub(super) const TO_BIG_ENDIAN: u8 = 0xdc;
pub(super) const JUMP: u8 = 0x05;
pub(super) const JUMP_EQUAL: u8 = 0x15;
pub(super) const JUMP_NOT_EQUAL: u8 = 0x55;
pub(super) const JUMP_NOT_EQUAL_REG: u8 = 0x5d;
pub(super) const JUMP_BITS: u8 = 0x45;
pub(super) const JUMP_MORE: u8 = 0x25;
pub(super) const JUMP_MORE_REG: u8 = 0x2d;
pub(super) const JUMP_LESS: u8 = 0xa5;
pub(super) const JUMP_LESS_EQUAL: u8 = 0xb5;
/// On the low 32 bits.
pub(super) const JUMP32_EQUAL: u8 = 0x16;
pub(super) const JUMP32_NOT_EQUAL: u8 = 0x56;
pub(super) const CALL: u8 = 0x85;
pub(super) const EXIT: u8 = 0x95;
/// The source register's number says that the constant is a map's descriptor.
pub(super) const MAP_DESCRIPTOR: u8 = 1;
/// `bpf_redirect_map`.
pub(super) const REDIRECT_MAP: i32 = 51;

/// A program being put together.
pub(super) struct Asm {
    insns: Vec<Insn>,
    /// Whether the next instruction can be reached.
    alive: bool,
    /// By label: which instruction it stands before.
    placed: Vec<Option<usize>>,
    /// Jumps, and where they go.
    jumps: Vec<(usize, Label)>,
}

impl Asm {
    pub(super) fn new() -> Asm {
        Asm { insns: Vec::new(), alive: true, placed: Vec::new(), jumps: Vec::new() }
    }

    /// Labels, to be placed later.
    pub(super) fn labels<const N: usize>(&mut self) -> [Label; N] {
        std::array::from_fn(|_| {
            self.placed.push(None);
            Label(self.placed.len() - 1)
        })
    }

    /// The label stands before the next instruction.
    pub(super) fn place(&mut self, label: Label) {
        debug_assert!(self.placed[label.0].is_none());
        self.placed[label.0] = Some(self.insns.len());
        self.alive |= self.jumps.iter().any(|(_, to)| *to == label);
    }

    /// The instructions, with their jumps resolved.
    pub(super) fn finish(mut self) -> Vec<Insn> {
        for (at, label) in self.jumps {
            let to = self.placed[label.0].expect("the program's author places every label that is jumped to");
            let distance = to.checked_sub(at + 1).and_then(|distance| i16::try_from(distance).ok());
            self.insns[at].offset =
                distance.expect("the limits on addresses and ports keep jumps short and forward");
        }
        self.insns
    }

    fn emit(&mut self, code: u8, dst: Reg, src: u8, offset: i16, constant: i32) {
        if !self.alive {
            return;
        }
        self.alive = code != JUMP && code != EXIT;
        self.insns.push(Insn { code, regs: dst as u8 | src << 4, offset, constant });
    }

    fn emit_jump(&mut self, code: u8, dst: Reg, src: u8, constant: i32, to: Label) {
        if self.alive {
            self.jumps.push((self.insns.len(), to));
        }
        self.emit(code, dst, src, 0, constant);
    }

    pub(super) fn load_word(&mut self, dst: Reg, base: Reg, at: i16) {
        self.emit(LOAD_WORD, dst, base as u8, at, 0);
    }

    pub(super) fn load_half(&mut self, dst: Reg, base: Reg, at: i16) {
        self.emit(LOAD_HALF, dst, base as u8, at, 0);
    }

    pub(super) fn load_byte(&mut self, dst: Reg, base: Reg, at: i16) {
        self.emit(LOAD_BYTE, dst, base as u8, at, 0);
    }

    pub(super) fn set(&mut self, dst: Reg, constant: i32) {
        self.emit(SET, dst, 0, 0, constant);
    }

    pub(super) fn copy(&mut self, dst: Reg, src: Reg) {
        self.emit(COPY, dst, src as u8, 0, 0);
    }

    pub(super) fn add(&mut self, dst: Reg, src: Reg) {
        self.emit(ADD, dst, src as u8, 0, 0);
    }

    pub(super) fn and(&mut self, dst: Reg, constant: i32) {
        self.emit(AND, dst, 0, 0, constant);
    }

    pub(super) fn shift_left(&mut self, dst: Reg, bits: i32) {
        self.emit(SHIFT_LEFT, dst, 0, 0, bits);
    }

    /// From network order to that of the machine, 16 bits.
    pub(super) fn half_to_host(&mut self, dst: Reg) {
        self.emit(TO_BIG_ENDIAN, dst, 0, 0, 16);
    }

    /// Goes on only if the frame, r2 to r3, has `len` bytes. Uses r4.
    pub(super) fn need(&mut self, len: i16, otherwise: Label) {
        self.need_from(R2, len, otherwise);
    }

    /// Goes on only if there are `len` bytes from `base` to the frame's end, r3. Uses r4.
    pub(super) fn need_from(&mut self, base: Reg, len: i16, otherwise: Label) {
        self.copy(R4, base);
        self.emit(ADD_CONSTANT, R4, 0, 0, len.into());
        self.emit_jump(JUMP_MORE_REG, R4, R3 as u8, 0, otherwise);
    }

    pub(super) fn jump(&mut self, to: Label) {
        self.emit_jump(JUMP, R0, 0, 0, to);
    }

    pub(super) fn jump_if(&mut self, reg: Reg, constant: i32, to: Label) {
        self.emit_jump(JUMP_EQUAL, reg, 0, constant, to);
    }

    pub(super) fn jump_unless(&mut self, reg: Reg, constant: i32, to: Label) {
        self.emit_jump(JUMP_NOT_EQUAL, reg, 0, constant, to);
    }

    pub(super) fn jump_unless_same(&mut self, left: Reg, right: Reg, to: Label) {
        self.emit_jump(JUMP_NOT_EQUAL_REG, left, right as u8, 0, to);
    }

    pub(super) fn jump_if_less(&mut self, reg: Reg, constant: i32, to: Label) {
        self.emit_jump(JUMP_LESS, reg, 0, constant, to);
    }

    pub(super) fn jump_if_more(&mut self, reg: Reg, constant: i32, to: Label) {
        self.emit_jump(JUMP_MORE, reg, 0, constant, to);
    }

    /// A number in the order of the machine, within bounds that belong to the range.
    pub(super) fn jump_if_between(&mut self, reg: Reg, first: u16, last: u16, to: Label) {
        let [other] = self.labels();
        self.jump_if_less(reg, first.into(), other);
        self.emit_jump(JUMP_LESS_EQUAL, reg, 0, last.into(), to);
        self.place(other);
    }

    /// Two bytes as they were loaded from a frame.
    pub(super) fn jump_if_half(&mut self, reg: Reg, half: u16, to: Label) {
        self.jump_if(reg, half.to_be().into(), to);
    }

    pub(super) fn jump_unless_half(&mut self, reg: Reg, half: u16, to: Label) {
        self.jump_unless(reg, half.to_be().into(), to);
    }

    /// If any of the bits is set in two bytes as they were loaded.
    pub(super) fn jump_if_any_half(&mut self, reg: Reg, bits: u16, to: Label) {
        self.emit_jump(JUMP_BITS, reg, 0, bits.to_be().into(), to);
    }

    /// Four bytes as they were loaded from a frame.
    pub(super) fn jump_if_word(&mut self, reg: Reg, word: [u8; 4], to: Label) {
        self.emit_jump(JUMP32_EQUAL, reg, 0, i32::from_ne_bytes(word), to);
    }

    pub(super) fn jump_unless_word(&mut self, reg: Reg, word: [u8; 4], to: Label) {
        self.emit_jump(JUMP32_NOT_EQUAL, reg, 0, i32::from_ne_bytes(word), to);
    }

    /// The address of a map. Two instructions long.
    pub(super) fn load_map(&mut self, dst: Reg, map: i32) {
        self.emit(LOAD_WIDE, dst, MAP_DESCRIPTOR, 0, map);
        self.emit(0, R0, 0, 0, 0);
    }

    /// Sends the frame to the socket at place r2 of the map r1; r3 is the verdict if there is none.
    pub(super) fn call_redirect_map(&mut self) {
        self.emit(CALL, R0, 0, 0, REDIRECT_MAP);
    }

    pub(super) fn exit(&mut self) {
        self.emit(EXIT, R0, 0, 0, 0);
    }
}
