/* Modules: PTX becomes a library of machine code once, kept under its hash, and its kernels are rows of a table in
 * it.
 *
 * FAKE_CUDA_PYTHON runs driver.machine where FAKE_CUDA_CACHE lacks the library. It picks from a fatbin as a driver
 * does, and then runs the fatbin's PTX, whatever it picked; a cubin alone it refuses as the driver of another
 * architecture would.
 */
#include "execute.h"
#include "fatbin.h"
#include "memory.h"
#include <dlfcn.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

enum { NAME = 1024, WEAK = 1, STRICT = 2 }; /* machine.py has the same modes */
typedef struct module {
    void *library;
    kernel *kernels;
    int num;
    struct module *next;
} module;
static module *loaded; /* handles that are known */
atomic_int num_modules;
static int last_took_ptx;
EXPORTED int fake_cuda_took_ptx(void) { return last_took_ptx; } /* of the image that was loaded last */
extern char **environ;

static uint64_t hash(const char *text, uint64_t value) { /* FNV-1a */
    for (; *text; text++) value = (value ^ (unsigned char)*text) * 0x100000001B3ull;
    return value;
}
static int is_there(const char *path) { return !access(path, R_OK); }
static int translate(const char *text, const char *path, int modes) {
    char source[NAME + 64], mode[8];
    snprintf(source, sizeof source, "%s.%d.ptx", path, getpid());
    snprintf(mode, sizeof mode, "%d", modes);
    FILE *file = fopen(source, "w");
    if (!file) return complain("%s cannot be written", source), 0;
    fputs(text, file);
    fclose(file);
    const char *python = getenv("FAKE_CUDA_PYTHON");
    char *arguments[] = {(char *)python, "-m", "driver.machine", source, (char *)path, mode, NULL};
    pid_t child;
    int status = -1;
    if (python && !posix_spawn(&child, python, NULL, NULL, arguments, environ)) waitpid(child, &status, 0);
    unlink(source);
    return !status && is_there(path);
}
static CUresult load(const char *text, module *made) {
    const char *cache = getenv("FAKE_CUDA_CACHE");
    if (!cache) return complain("FAKE_CUDA_CACHE is not set"), CUDA_ERROR_JIT_COMPILER_NOT_FOUND;
    int modes = (option("FAKE_CUDA_WEAK", 0) ? WEAK : 0) | (option("FAKE_CUDA_STRICT", 0) ? STRICT : 0);
    char path[NAME];
    snprintf(path, sizeof path, "%s/%016lx%016lx-%d.so", cache, hash(text, 0xCBF29CE484222325ull),
             hash(text, 0x9AE16A3B2F90404Full), modes);
    if (!is_there(path) && !translate(text, path, modes)) return CUDA_ERROR_INVALID_PTX;
    Dl_info mine; /* its code finds this library's functions */
    if (dladdr((void *)load, &mine)) dlopen(mine.dli_fname, RTLD_NOW | RTLD_GLOBAL | RTLD_NOLOAD);
    made->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!made->library) return complain("%s", dlerror()), CUDA_ERROR_INVALID_IMAGE;
    const code *rows = dlsym(made->library, "ptx_kernels");
    made->num = *(int *)dlsym(made->library, "ptx_num_kernels");
    made->kernels = calloc(made->num + 1, sizeof *made->kernels);
    for (int n = 0; n < made->num; n++) made->kernels[n] = (kernel){rows[n], modes & WEAK, made};
    catch_faults();
    return 0;
}
static int is_loaded(const module *given) {
    for (module *m = loaded; m; m = m->next)
        if (m == given) return 1;
    return 0;
}

static CUresult CALL(cuModuleLoadData(CUmodule *got, const void *image)) {
    BEGIN;
    NEEDS_CONTEXT;
    int newest_ptx = 90 + option("FAKE_CUDA_DRIVER", NEWEST_DRIVER) / 10 % 100; /* CUDA 13.5 came with PTX 9.5 */
    picked_image picked, run;
    CUresult status = pick_image(image, option("FAKE_CUDA_CAPABILITY", 90), newest_ptx, 1, &picked);
    if (status) return status;
    if (pick_image(image, 999, 999, 0, &run)) return CUDA_ERROR_NO_BINARY_FOR_GPU; /* the PTX beside the cubins */
    last_took_ptx = picked.is_ptx;
    char *text = strndup(run.start, run.num_bytes);
    module *made = calloc(1, sizeof *made);
    status = load(text, made);
    free(text);
    if (status) {
        free(made);
        return status;
    }
    pthread_mutex_lock(&tables);
    made->next = loaded;
    loaded = made;
    num_modules++;
    pthread_mutex_unlock(&tables);
    *got = (CUmodule)made;
    return 0;
}
static CUresult CALL(cuModuleLoadDataEx(CUmodule *got, const void *image, unsigned num, CUjit_option *names,
                                        void **values)) {
    return fake_cuModuleLoadData(got, image);
}
static CUresult CALL(cuModuleUnload(CUmodule given)) { /* its code stays: a launch may still run */
    BEGIN;
    NEEDS_CONTEXT;
    CUresult status = CUDA_ERROR_INVALID_HANDLE;
    pthread_mutex_lock(&tables);
    for (module **m = &loaded; *m; m = &(*m)->next)
        if (*m == (module *)given) {
            *m = (*m)->next;
            num_modules--;
            status = 0;
            break;
        }
    pthread_mutex_unlock(&tables);
    return status;
}
static CUresult CALL(cuModuleGetFunction(CUfunction *got, CUmodule given, const char *name)) {
    BEGIN;
    module *from = (module *)given;
    if (!is_loaded(from)) return CUDA_ERROR_INVALID_HANDLE;
    for (int n = 0; n < from->num; n++)
        if (!strcmp(from->kernels[n].of.name, name)) {
            *got = (CUfunction)&from->kernels[n];
            return 0;
        }
    return CUDA_ERROR_NOT_FOUND;
}
/* Libraries and kernels, as cuda.core asks for them, are modules and functions here. */
static CUresult CALL(cuLibraryLoadData(CUlibrary *got, const void *image, CUjit_option *a, void **b, unsigned c,
                                       CUlibraryOption *d, void **e, unsigned f)) {
    return fake_cuModuleLoadData((CUmodule *)got, image);
}
static CUresult CALL(cuLibraryUnload(CUlibrary given)) { return fake_cuModuleUnload((CUmodule)given); }
static CUresult CALL(cuLibraryGetModule(CUmodule *got, CUlibrary from)) {
    BEGIN;
    *got = (CUmodule)from;
    return 0;
}
static CUresult CALL(cuLibraryGetKernel(CUkernel *got, CUlibrary from, const char *name)) {
    return fake_cuModuleGetFunction((CUfunction *)got, (CUmodule)from, name);
}
static CUresult CALL(cuKernelGetFunction(CUfunction *got, CUkernel from)) {
    BEGIN;
    *got = (CUfunction)from;
    return 0;
}

const call module_calls[] = {
    ROW(cuModuleLoadData),    ROW(cuModuleLoadDataEx),
    ROW(cuModuleUnload),      ROW(cuModuleGetFunction),
    ROW(cuLibraryLoadData),   ROW(cuLibraryUnload),
    ROW(cuLibraryGetModule),  ROW(cuLibraryGetKernel),
    ROW(cuKernelGetFunction), {NULL, NULL},
};
