/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Mailbox firmware: a vCPU that does what a test tells it, when it is told.
 *
 * 64 KiB, flat, linked at the top of the 32-bit space (-bios mailbox.bin).  It enters flat 32-bit
 * protected mode without paging and polls a mailbox in the second page of RAM.  The test writes the
 * arguments and then a new sequence number (through qtest); the vCPU acts and then copies the sequence
 * number to `ack`.  x86 keeps stores in order, so whoever sees the ack also sees every store before it.
 *
 * tests/lib/ballast/mailbox.py has the other end; keep the offsets in step.
 */

#define MAILBOX     0x1000
#define SEQ         0       /* test: number of the command, written last                 */
#define ACK         4       /* vCPU: number of the last command done                     */
#define COMMAND     8       /* test: one of CMD_*                                        */
#define ADDR        12      /* test: first address                                       */
#define LEN         16      /* test: bytes, a multiple of 4                              */
#define VALUE       20      /* test: dword to store or to compare with                   */
#define RESULT      24      /* vCPU: see the command                                     */
#define MAGIC       28      /* vCPU: "BLST" once it polls                                */
#define LAPS        32      /* vCPU: complete laps of CMD_LOOP, ever                     */
#define EXTRA       36      /* test: CMD_LOOP also writes here once a lap, unless zero   */

#define CMD_WRITE   1       /* store VALUE at ADDR                                       */
#define CMD_FILL    2       /* store VALUE in each dword of ADDR, LEN                    */
#define CMD_READ    3       /* RESULT = dword at ADDR                                    */
#define CMD_LOOP    4       /* ack, then dirty each page of ADDR, LEN until SEQ changes  */
#define CMD_COUNT   5       /* RESULT = dwords of ADDR, LEN that differ from VALUE       */
#define CMD_STAMP   6       /* store VALUE in the first dword of each page of ADDR, LEN  */

    .text
    .code16
    .globl _start
_start:
    cli
    cld
    lgdtl   %cs:(gdt_pointer - _start)
    movl    %cr0, %eax
    orb     $1, %al
    movl    %eax, %cr0
    ljmpl   $8, $protected

    .code32
protected:
    movw    $16, %ax
    movw    %ax, %ds
    movw    %ax, %es
    movw    %ax, %ss
    movl    $MAILBOX, %ebx
    movl    $0x54534c42, MAGIC(%ebx)

poll:
    movl    SEQ(%ebx), %ebp
    cmpl    ACK(%ebx), %ebp
    jne     dispatch
    pause
    jmp     poll

dispatch:
    movl    COMMAND(%ebx), %eax
    movl    ADDR(%ebx), %edi
    movl    LEN(%ebx), %ecx
    movl    VALUE(%ebx), %edx
    cmpl    $CMD_WRITE, %eax
    je      write
    cmpl    $CMD_FILL, %eax
    je      fill
    cmpl    $CMD_READ, %eax
    je      read
    cmpl    $CMD_LOOP, %eax
    je      loop_
    cmpl    $CMD_COUNT, %eax
    je      count
    cmpl    $CMD_STAMP, %eax
    je      stamp
done:
    movl    %ebp, ACK(%ebx)
    jmp     poll

write:
    movl    %edx, (%edi)
    jmp     done

fill:
    movl    %edx, %eax
    shrl    $2, %ecx
    rep stosl
    jmp     done

read:
    movl    (%edi), %eax
    movl    %eax, RESULT(%ebx)
    jmp     done

count:
    shrl    $2, %ecx
    xorl    %eax, %eax
    jecxz   2f
1:  cmpl    (%edi), %edx
    je      3f
    incl    %eax
3:  addl    $4, %edi
    decl    %ecx
    jnz     1b
2:  movl    %eax, RESULT(%ebx)
    jmp     done

stamp:
    shrl    $12, %ecx
    jecxz   done
1:  movl    %edx, (%edi)
    addl    $4096, %edi
    decl    %ecx
    jnz     1b
    jmp     done

loop_:
    movl    %ebp, ACK(%ebx)
lap:
    movl    ADDR(%ebx), %edi
    movl    LEN(%ebx), %ecx
    shrl    $12, %ecx
    jecxz   2f
1:  cmpl    SEQ(%ebx), %ebp
    jne     poll
    incl    (%edi)
    addl    $4096, %edi
    decl    %ecx
    jnz     1b
2:  cmpl    SEQ(%ebx), %ebp
    jne     poll
    movl    EXTRA(%ebx), %edi
    testl   %edi, %edi
    jz      3f
    incl    (%edi)
3:  incl    LAPS(%ebx)
    jmp     lap

    .balign 8
gdt:
    .quad   0
    .quad   0x00cf9b000000ffff      /* 8:  code, base 0, limit 4 GiB */
    .quad   0x00cf93000000ffff      /* 16: data, base 0, limit 4 GiB */
gdt_pointer:
    .word   . - gdt - 1
    .long   gdt

    .org    0xfff0
    .code16
reset:
    jmp     _start
    .org    0x10000
