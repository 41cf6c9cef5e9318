/* How a driver picks from what it is given: a fatbin, a cubin or PTX.
 *
 * From a fatbin: the newest cubin of the device's major version that its minor version has, else the newest PTX
 * for no newer device, which must be of a version that the driver knows. The container's layout is documented
 * nowhere; this reads what nvFatbin of CUDA 13 writes, uncompressed.
 */
#include <cuda.h>
#include <elf.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { FATBIN_MAGIC = 0xba55ed50, ENTRY_PTX = 1, ENTRY_CUBIN = 2, EM_CUDA_ = 190 };
typedef struct { uint32_t magic; uint16_t version, header_bytes; uint64_t num_bytes; } fatbin_header;
typedef struct {
    uint16_t kind, version;
    uint32_t header_bytes;
    uint64_t num_bytes;
    uint32_t compressed_bytes, unknown;
    uint16_t minor, major; /* of the PTX */
    uint32_t capability;   /* ten times the compute capability */
} fatbin_entry;
typedef struct { const char *start; size_t num_bytes; int is_ptx; } picked_image;

static size_t elf_bytes(const Elf64_Ehdr *elf) { /* the end of the last of its sections */
    size_t size = elf->e_shoff + (size_t)elf->e_shnum * elf->e_shentsize;
    const Elf64_Shdr *section = (const void *)((const char *)elf + elf->e_shoff);
    for (int i = 0; i < elf->e_shnum; i++)
        if (section[i].sh_type != SHT_NOBITS && section[i].sh_offset + section[i].sh_size > size)
            size = section[i].sh_offset + section[i].sh_size;
    return size;
}

/* `capability` 90 is 9.0, `newest_ptx` 95 is PTX 9.5; a driver with `takes_cubins` 0 executes PTX alone. */
static CUresult pick_image(const void *given, int capability, int newest_ptx, int takes_cubins,
                           picked_image *picked) {
    const fatbin_header *fatbin = given;
    int best = -1, major, minor;
    *picked = (picked_image){given, 0, 0};
    if (!memcmp(given, ELFMAG, SELFMAG)) {
        if (((const Elf64_Ehdr *)given)->e_machine != EM_CUDA_) return CUDA_ERROR_INVALID_IMAGE;
        picked->num_bytes = elf_bytes(given);
        return takes_cubins ? CUDA_SUCCESS : CUDA_ERROR_NO_BINARY_FOR_GPU;
    }
    if (fatbin->magic != FATBIN_MAGIC) {
        const char *version = strstr(given, ".version");
        if (!version || sscanf(version, ".version %d.%d", &major, &minor) != 2) return CUDA_ERROR_INVALID_IMAGE;
        *picked = (picked_image){given, strlen(given), 1};
        return 10 * major + minor > newest_ptx ? CUDA_ERROR_UNSUPPORTED_PTX_VERSION : CUDA_SUCCESS;
    }
    const char *at = (const char *)given + fatbin->header_bytes, *end = at + fatbin->num_bytes;
    for (const fatbin_entry *entry; at < end; at += entry->header_bytes + entry->num_bytes) {
        entry = (const void *)at;
        int is_ptx = entry->kind == ENTRY_PTX, made_for = entry->capability;
        if (entry->compressed_bytes || made_for > capability) continue;
        if (!is_ptx && (!takes_cubins || entry->kind != ENTRY_CUBIN || made_for / 10 != capability / 10)) continue;
        int rank = made_for + (is_ptx ? 0 : 1000); /* any cubin before any PTX */
        if (rank <= best) continue;
        best = rank;
        *picked = (picked_image){at + entry->header_bytes, entry->num_bytes, is_ptx};
        major = entry->major, minor = entry->minor;
    }
    if (best < 0) return CUDA_ERROR_NO_BINARY_FOR_GPU;
    if (picked->is_ptx && 10 * major + minor > newest_ptx) return CUDA_ERROR_UNSUPPORTED_PTX_VERSION;
    return CUDA_SUCCESS;
}
