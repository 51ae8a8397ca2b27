/*
 * A plugin for QEMU's user mode emulation: prints how many instructions the guest has run whenever it closes the file
 * descriptor MARK, which it never has open. One thread of the guest may work at a time.
 *
 * Debian ships no header for plugins, so that the few functions that this one needs are declared here, as version 1 of
 * their interface has them (QEMU 6.0 to 8.2).
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define MARK 1000000
#define AARCH64_CLOSE 57
#define EXPORT __attribute__((visibility("default")))

typedef uint64_t plugin_id;
struct tb;

void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id, void (*translated)(plugin_id id, struct tb *block));
void qemu_plugin_register_vcpu_tb_exec_inline(struct tb *block, int operation, void *counter, uint64_t amount);
void qemu_plugin_register_vcpu_syscall_cb(
    plugin_id id,
    void (*called)(plugin_id id, unsigned int cpu, int64_t number, uint64_t a, uint64_t b, uint64_t c, uint64_t d,
                   uint64_t e, uint64_t f, uint64_t g, uint64_t h));
size_t qemu_plugin_tb_n_insns(const struct tb *block);

EXPORT int qemu_plugin_version = 1;

static uint64_t instructions;

static void translated(plugin_id id, struct tb *block)
{
    const int add = 0;
    qemu_plugin_register_vcpu_tb_exec_inline(block, add, &instructions, qemu_plugin_tb_n_insns(block));
}

static void called(plugin_id id, unsigned int cpu, int64_t number, uint64_t a, uint64_t b, uint64_t c, uint64_t d,
                   uint64_t e, uint64_t f, uint64_t g, uint64_t h)
{
    if (number == AARCH64_CLOSE && a == MARK) {
        fprintf(stderr, "instructions %llu\n", (unsigned long long)instructions);
    }
}

EXPORT int qemu_plugin_install(plugin_id id, const void *info, int count, char **arguments)
{
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    return 0;
}
