//! XTS and CBC over whole sectors, for any cipher with blocks of 16 bytes.
//!
//! XTS: IEEE 1619-2007 (sectors are whole blocks here, so nothing is stolen). CBC: NIST SP 800-38A.
//! Written over the ciphers' many-blocks call: that is what lets AES-NI and VAES work on several
//! blocks at once, and the crates that offer these modes call the cipher block by block (XTS) or
//! want a new key schedule for every sector (CBC).

use aes::cipher::array::Array;
use aes::cipher::consts::U16;
use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, BlockSizeUser};

/// Blocks handed to the cipher at once: 512 bytes, one small sector.
const BATCH: usize = 32;

/// A cipher block.
pub(crate) type Block = Array<u8, U16>;

/// A cipher that both modes can use.
pub(crate) trait Cipher:
    BlockCipherEncrypt + BlockCipherDecrypt + BlockSizeUser<BlockSize = U16> + Send + Sync
{
}

impl<C> Cipher for C where
    C: BlockCipherEncrypt + BlockCipherDecrypt + BlockSizeUser<BlockSize = U16> + Send + Sync
{
}

/// Encrypts and decrypts one sector, a whole number of blocks, in place.
pub(crate) trait Mode: Send + Sync {
    fn encrypt(&self, sector: &mut [u8], iv: Block);
    fn decrypt(&self, sector: &mut [u8], iv: Block);
}

/// Encrypts single blocks, to make initialisation vectors.
pub(crate) trait OneBlock: Send + Sync {
    fn encrypt(&self, block: Block) -> Block;
}

impl<C: Cipher> OneBlock for C {
    fn encrypt(&self, mut block: Block) -> Block {
        self.encrypt_block(&mut block);
        block
    }
}

/// XTS: the first key for the sectors, the second for the tweaks.
pub(crate) struct Xts<C> {
    pub(crate) sectors: C,
    pub(crate) tweaks: C,
}

impl<C: Cipher> Xts<C> {
    fn run(&self, sector: &mut [u8], iv: Block, cipher: impl Fn(&C, &mut [Block])) {
        let mut tweak = u128::from_le_bytes(OneBlock::encrypt(&self.tweaks, iv).0);
        let mut tweaks = [0; BATCH];
        let (blocks, _) = Block::slice_as_chunks_mut(sector);
        for batch in blocks.chunks_mut(BATCH) {
            for (block, kept) in batch.iter_mut().zip(&mut tweaks) {
                xor(block, tweak);
                *kept = tweak;
                tweak = doubled(tweak);
            }
            cipher(&self.sectors, batch);
            for (block, kept) in batch.iter_mut().zip(&tweaks) {
                xor(block, *kept);
            }
        }
    }
}

impl<C: Cipher> Mode for Xts<C> {
    fn encrypt(&self, sector: &mut [u8], iv: Block) {
        self.run(sector, iv, |cipher, blocks| cipher.encrypt_blocks(blocks));
    }

    fn decrypt(&self, sector: &mut [u8], iv: Block) {
        self.run(sector, iv, |cipher, blocks| cipher.decrypt_blocks(blocks));
    }
}

/// Times x in GF(2^128), in the byte order of XTS.
fn doubled(tweak: u128) -> u128 {
    let carry = tweak >> 127;
    // No branch on key material.
    (tweak << 1) ^ (carry.wrapping_neg() & 0x87)
}

fn xor(block: &mut Block, with: u128) {
    block.0 = (u128::from_le_bytes(block.0) ^ with).to_le_bytes();
}

/// CBC: each block is mixed with the encrypted one before it.
pub(crate) struct Cbc<C>(pub(crate) C);

impl<C: Cipher> Mode for Cbc<C> {
    fn encrypt(&self, sector: &mut [u8], iv: Block) {
        let mut before = u128::from_le_bytes(iv.0);
        let (blocks, _) = Block::slice_as_chunks_mut(sector);
        for block in blocks {
            xor(block, before);
            self.0.encrypt_block(block);
            before = u128::from_le_bytes(block.0);
        }
    }

    fn decrypt(&self, sector: &mut [u8], iv: Block) {
        let mut before = u128::from_le_bytes(iv.0);
        let mut kept = [0; BATCH];
        let (blocks, _) = Block::slice_as_chunks_mut(sector);
        for batch in blocks.chunks_mut(BATCH) {
            for (block, kept) in batch.iter().zip(&mut kept) {
                *kept = before;
                before = u128::from_le_bytes(block.0);
            }
            self.0.decrypt_blocks(batch);
            for (block, kept) in batch.iter_mut().zip(&kept) {
                xor(block, *kept);
            }
        }
    }
}
