/* The loops that Interpole spends its time in, over bfloat16 and, for fingerprints, over bytes; `interpole.checkpoints.kernels` wraps them.

   Built by setuptools where there is a C compiler; numpy computes the same without it. Arithmetic is plain float32 and
   compiled without fused multiply-add, so that the results are numpy's, bit for bit. */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#define _FILE_OFFSET_BITS 64
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#define HAS_FILES /* of which pread and pwrite read and write parts */
#endif

#ifdef _MSC_VER
#define restrict __restrict
#endif

/* By glibc's loader alone: musl's cannot choose between clones. */
#if defined(__x86_64__) && defined(__linux__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_CPU __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_CPU
#endif

#define BLOCK 1024 /* floats on the stack: they stay in the first-level cache */
#define LANES 16
#define MOST_INPUTS 16
#define VOTE_BLOCK 256 /* a vote holds this many floats of every input */

static inline float widen(uint16_t code) {
    uint32_t bits = (uint32_t)code << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

/* The code to nearest, ties to even; every NaN becomes the quiet one of its sign, as ml_dtypes has it. */
static inline uint32_t rounded(float value) {
    uint32_t bits = bits_of(value);
    uint32_t code = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16, nan = ((bits >> 16) & 0x8000) | 0x7FC0;
    return (bits & 0x7FFFFFFF) > 0x7F800000 ? nan : code;
}

static inline uint16_t narrow(float value) { return (uint16_t)rounded(value); }

FOR_EACH_CPU static void sum_two(const uint16_t *restrict a, const uint16_t *restrict b, float wa, float wb,
                                 uint16_t *restrict out, Py_ssize_t size) {
    for (Py_ssize_t i = 0; i < size; i++) out[i] = narrow(widen(a[i]) * wa + widen(b[i]) * wb);
}

FOR_EACH_CPU static void sum_many(uint16_t *const *inputs, const float *weights, int count, uint16_t *out,
                                  Py_ssize_t size) {
    float total[BLOCK];
    for (Py_ssize_t start = 0; start < size; start += BLOCK) {
        Py_ssize_t length = size - start < BLOCK ? size - start : BLOCK;
        for (Py_ssize_t i = 0; i < length; i++) total[i] = widen(inputs[0][start + i]) * weights[0];
        for (int k = 1; k < count; k++) {
            const uint16_t *input = inputs[k] + start;
            float weight = weights[k];
            for (Py_ssize_t i = 0; i < length; i++) total[i] += widen(input[i]) * weight;
        }
        for (Py_ssize_t i = 0; i < length; i++) out[start + i] = narrow(total[i]);
    }
}

#ifdef HAS_FILES
#define PIECE (1 << 16) /* elements: inputs and sum stay in the second-level cache, and larger writes are slower */

FOR_EACH_CPU static int is_finite(const uint16_t *codes, Py_ssize_t size) {
    int found = 0;
    for (Py_ssize_t i = 0; i < size; i++) found |= (codes[i] & 0x7F80) == 0x7F80;
    return !found;
}

typedef struct {
    int file;
    long long offset; /* bytes */
} Place;

/* The sum of weight times what lies in files, into a file; `memory` holds a piece of each input and one of the sum. How many
   elements were written: it ends before a piece that cannot be read or written at once, or whose sum is not finite. */
static Py_ssize_t sum_places(const Place *inputs, const float *weights, int count, Place out, Py_ssize_t size,
                             uint16_t *memory) {
    uint16_t *codes[MOST_INPUTS], *sum = memory + (Py_ssize_t)count * PIECE;
    for (int k = 0; k < count; k++) codes[k] = memory + (Py_ssize_t)k * PIECE;
    for (Py_ssize_t start = 0; start < size; start += PIECE) {
        Py_ssize_t length = size - start < PIECE ? size - start : PIECE;
        for (int k = 0; k < count; k++)
            if (pread(inputs[k].file, codes[k], 2 * length, inputs[k].offset + 2 * start) != 2 * length) return start;
        if (count == 2)
            sum_two(codes[0], codes[1], weights[0], weights[1], sum, length);
        else
            sum_many(codes, weights, count, sum, length);
        if (!is_finite(sum, length) || pwrite(out.file, sum, 2 * length, out.offset + 2 * start) != 2 * length) return start;
    }
    return size;
}
#endif

/* Σ|a − b|, Σ|a| and Σ|b|: rows of 1,024 in float32, sixteen sums side by side, then float64. */
FOR_EACH_CPU static void absolute(const uint16_t *a, const uint16_t *b, Py_ssize_t size, double *sums) {
    for (Py_ssize_t start = 0; start < size; start += BLOCK) {
        Py_ssize_t stop = size - start < BLOCK ? size : start + BLOCK, i = start;
        float difference[LANES] = {0}, of_a[LANES] = {0}, of_b[LANES] = {0};
        for (; i + LANES <= stop; i += LANES)
            for (int lane = 0; lane < LANES; lane++) {
                float x = widen(a[i + lane]), y = widen(b[i + lane]);
                difference[lane] += fabsf(x - y);
                of_a[lane] += fabsf(x);
                of_b[lane] += fabsf(y);
            }
        for (int lane = 0; i < stop; i++, lane++) {
            float x = widen(a[i]), y = widen(b[i]);
            difference[lane] += fabsf(x - y);
            of_a[lane] += fabsf(x);
            of_b[lane] += fabsf(y);
        }
        for (int lane = 0; lane < LANES; lane++) {
            sums[0] += difference[lane];
            sums[1] += of_a[lane];
            sums[2] += of_b[lane];
        }
    }
}

/* The products of e = m - a, d = b - a and a, each pair once (ee, ed, ea, dd, da, aa), then how many m differ from a and from b,
   and, with two weights, in a bit from what `sum_two` gives: rows of 1,024 in float32, sixteen sums side by side, then float64.
   A row is widened first, so that each loop has numbers of one width only and few sums, which stay in registers. */
#define PRODUCTS 6
#define COUNTS 3
FOR_EACH_CPU static void products(const uint16_t *m, const uint16_t *a, const uint16_t *b, Py_ssize_t size,
                                  const float *weights, double *sums) {
    float z[BLOCK], x[BLOCK], y[BLOCK];
    for (Py_ssize_t start = 0; start < size; start += BLOCK, m += BLOCK, a += BLOCK, b += BLOCK) {
        int length = (int)(size - start < BLOCK ? size - start : BLOCK);
        float ee[LANES] = {0}, ed[LANES] = {0}, ea[LANES] = {0}, dd[LANES] = {0}, da[LANES] = {0}, aa[LANES] = {0};
        int32_t from_a = 0, from_b = 0, from_sum = 0;
        for (int i = 0; i < length; i++) {
            z[i] = widen(m[i]);
            x[i] = widen(a[i]);
            y[i] = widen(b[i]);
        }
        for (int i = length; i % LANES; i++) z[i] = x[i] = y[i] = 0; /* zeros add nothing */
        for (int i = 0; i < length; i += LANES)
            for (int lane = 0; lane < LANES; lane++) {
                float e = z[i + lane] - x[i + lane], d = y[i + lane] - x[i + lane];
                ee[lane] += e * e;
                ed[lane] += e * d;
                ea[lane] += e * x[i + lane];
                dd[lane] += d * d;
                da[lane] += d * x[i + lane];
                aa[lane] += x[i + lane] * x[i + lane];
            }
        for (int i = 0; i < length; i++) {
            from_a += z[i] != x[i];
            from_b += z[i] != y[i];
        }
        if (weights)
            for (int i = 0; i < length; i++) from_sum += rounded(x[i] * weights[0] + y[i] * weights[1]) != bits_of(z[i]) >> 16;
        for (int lane = 0; lane < LANES; lane++) {
            sums[0] += ee[lane];
            sums[1] += ed[lane];
            sums[2] += ea[lane];
            sums[3] += dd[lane];
            sums[4] += da[lane];
            sums[5] += aa[lane];
        }
        sums[PRODUCTS] += from_a;
        sums[PRODUCTS + 1] += from_b;
        sums[PRODUCTS + 2] += from_sum;
    }
}

/* A model of a merge of task vectors: its numbers, its weight, and which of its differences to the base are kept: those whose
   magnitude has bits above `threshold`, and those at it up to position `last`. */
typedef struct {
    const uint16_t *codes;
    float weight;
    int32_t threshold;
    Py_ssize_t last;
} Source;

static inline int32_t magnitude(float difference) { return (int32_t)(bits_of(difference) & 0x7FFFFFFF); }

/* base + scale * (sum of weight * (x - base)) / divisor */
FOR_EACH_CPU static void add_task_vectors(const Source *sources, int count, const uint16_t *base, float divisor,
                                          float scale, uint16_t *out, Py_ssize_t size) {
    float total[BLOCK];
    for (Py_ssize_t start = 0; start < size; start += BLOCK) {
        Py_ssize_t length = size - start < BLOCK ? size - start : BLOCK;
        const uint16_t *below = base + start;
        for (int k = 0; k < count; k++) {
            const uint16_t *input = sources[k].codes + start;
            float weight = sources[k].weight;
            if (k == 0)
                for (Py_ssize_t i = 0; i < length; i++) total[i] = (widen(input[i]) - widen(below[i])) * weight;
            else
                for (Py_ssize_t i = 0; i < length; i++) total[i] += (widen(input[i]) - widen(below[i])) * weight;
        }
        if (divisor != 1)
            for (Py_ssize_t i = 0; i < length; i++) total[i] /= divisor;
        for (Py_ssize_t i = 0; i < length; i++) out[start + i] = narrow(total[i] * scale + widen(below[i]));
    }
}

/* The same of what is kept and has the sign of the weighted sum, divided by the weights of these where asked to (TIES).
   What is left out is multiplied by 0, as numpy does it with masks: infinities become NaN, and signs of zeros stay. */
FOR_EACH_CPU static void elect_task_vectors(const Source *sources, int count, const uint16_t *base, int normalize,
                                            float scale, uint16_t *out, Py_ssize_t size) {
    float part[MOST_INPUTS][VOTE_BLOCK], below[VOTE_BLOCK], total[VOTE_BLOCK], mixed[VOTE_BLOCK], divisor[VOTE_BLOCK];
    for (Py_ssize_t start = 0; start < size; start += VOTE_BLOCK) {
        int length = (int)(size - start < VOTE_BLOCK ? size - start : VOTE_BLOCK);
        for (int i = 0; i < length; i++) below[i] = widen(base[start + i]);
        for (int k = 0; k < count; k++) {
            const uint16_t *input = sources[k].codes + start;
            float weight = sources[k].weight, *own = part[k];
            int32_t threshold = sources[k].threshold;
            Py_ssize_t left = sources[k].last + 1 - start;
            int at = (int)(left < 0 ? 0 : left > VOTE_BLOCK ? VOTE_BLOCK : left);
            for (int i = 0; i < length; i++) {
                float difference = widen(input[i]) - below[i];
                float kept = magnitude(difference) > (i < at ? threshold - 1 : threshold) ? 1.0f : 0.0f;
                own[i] = difference * kept * weight;
            }
            for (int i = 0; i < length; i++) total[i] = k ? total[i] + own[i] : own[i];
        }
        for (int k = 0; k < count; k++) {
            const float weight = sources[k].weight, *own = part[k];
            for (int i = 0; i < length; i++) {
                float agrees = (((own[i] > 0) == (total[i] >= 0)) & (own[i] != 0)) ? 1.0f : 0.0f;
                mixed[i] = k ? mixed[i] + own[i] * agrees : own[i] * agrees;
                divisor[i] = k ? divisor[i] + agrees * weight : agrees * weight;
            }
        }
        if (normalize)
            for (int i = 0; i < length; i++) mixed[i] /= fabsf(divisor[i]) < 1e-8f ? 1.0f : divisor[i];
        for (int i = 0; i < length; i++) out[start + i] = narrow(mixed[i] * scale + below[i]);
    }
}

/* The bits of |x - base| strictly between `low` and `high`, in order, to `inside`; into `counts` how many lie above `high`, at
   it, between, and at `low`. */
FOR_EACH_CPU static void find_band(const uint16_t *x, const uint16_t *base, Py_ssize_t size, int32_t low, int32_t high,
                                   int32_t *inside, Py_ssize_t *counts) {
    int32_t bits[BLOCK];
    uint8_t hits[BLOCK];
    Py_ssize_t found = 0;
    for (Py_ssize_t start = 0; start < size; start += BLOCK) {
        Py_ssize_t length = size - start < BLOCK ? size - start : BLOCK, i = 0;
        int32_t above = 0, at_high = 0, at_low = 0;
        for (Py_ssize_t j = 0; j < length; j++) {
            int32_t found_bits = magnitude(widen(x[start + j]) - widen(base[start + j]));
            bits[j] = found_bits;
            above += found_bits > high;
            at_high += found_bits == high;
            at_low += found_bits == low;
            hits[j] = (found_bits > low) & (found_bits < high);
        }
        counts[0] += above;
        counts[1] += at_high;
        counts[3] += at_low;
        for (; i + 8 <= length; i += 8) {
            uint64_t any;
            memcpy(&any, hits + i, 8);
            if (any)
                for (int lane = 0; lane < 8; lane++) {
                    inside[found] = bits[i + lane]; /* written over where it is no hit */
                    found += hits[i + lane];
                }
        }
        for (; i < length; i++)
            if (hits[i]) inside[found++] = bits[i];
    }
    counts[2] += found;
}

/* NH of blocks of 32-bit words with fixed keys: Σ (word + key) times (word + key) half a block further, as fingerprint.py says. */
FOR_EACH_CPU static void nh(const uint32_t *restrict words, const uint32_t *restrict keys, uint64_t *restrict out,
                            Py_ssize_t blocks, Py_ssize_t length) {
    Py_ssize_t half = length / 2;
    for (Py_ssize_t block = 0; block < blocks; block++, words += length) {
        uint64_t total = 0;
        for (Py_ssize_t i = 0; i < half; i++)
            total += (uint64_t)(uint32_t)(words[i] + keys[i]) * (uint32_t)(words[half + i] + keys[half + i]);
        out[block] = total;
    }
}

/* Views of `count` buffers of one size; the number of elements, or -1 with an error set and nothing held. */
static Py_ssize_t open_buffers(PyObject *const *objects, int count, int last_is_output, Py_buffer *views) {
    for (int k = 0; k < count; k++) {
        int flags = last_is_output && k == count - 1 ? PyBUF_WRITABLE : PyBUF_SIMPLE;
        int failed = PyObject_GetBuffer(objects[k], &views[k], flags);
        if (!failed && (views[k].len % 2 || views[k].len != views[0].len)) {
            PyErr_SetString(PyExc_ValueError, "arrays of 16-bit codes, all of one length, are needed");
            PyBuffer_Release(&views[k]);
            failed = 1;
        }
        if (failed) {
            while (k--) PyBuffer_Release(&views[k]);
            return -1;
        }
    }
    return views[0].len / 2;
}

/* The inputs of a tuple and their weights, as floats; how many, or -1 with an error set. */
static int open_inputs(PyObject *inputs, PyObject *weights, PyObject **objects, float *factors) {
    Py_ssize_t count = PyTuple_Size(inputs);
    if (count < 1 || count > MOST_INPUTS || PyTuple_Size(weights) != count) {
        PyErr_Format(PyExc_ValueError, "1 to %d inputs and a weight for each are needed", MOST_INPUTS);
        return -1;
    }
    for (Py_ssize_t k = 0; k < count; k++) {
        objects[k] = PyTuple_GetItem(inputs, k);
        factors[k] = (float)PyFloat_AsDouble(PyTuple_GetItem(weights, k));
        if (PyErr_Occurred()) return -1;
    }
    return (int)count;
}

static PyObject *weighted_sum(PyObject *module, PyObject *args) {
    PyObject *inputs, *weights, *out, *objects[MOST_INPUTS + 1];
    Py_buffer views[MOST_INPUTS + 1];
    uint16_t *codes[MOST_INPUTS];
    float factors[MOST_INPUTS];
    if (!PyArg_ParseTuple(args, "O!O!O", &PyTuple_Type, &inputs, &PyTuple_Type, &weights, &out)) return NULL;
    int count = open_inputs(inputs, weights, objects, factors);
    if (count < 0) return NULL;
    objects[count] = out;
    Py_ssize_t size = open_buffers(objects, count + 1, 1, views);
    if (size < 0) return NULL;
    for (int k = 0; k < count; k++) codes[k] = views[k].buf;
    Py_BEGIN_ALLOW_THREADS
    if (count == 2)
        sum_two(codes[0], codes[1], factors[0], factors[1], views[2].buf, size);
    else
        sum_many(codes, factors, count, views[count].buf, size);
    Py_END_ALLOW_THREADS
    for (int k = 0; k <= count; k++) PyBuffer_Release(&views[k]);
    Py_RETURN_NONE;
}

#ifdef HAS_FILES
static PyObject *sum_files(PyObject *module, PyObject *args) {
    PyObject *inputs, *weights, *objects[MOST_INPUTS];
    Place places[MOST_INPUTS], out;
    float factors[MOST_INPUTS];
    Py_ssize_t size, written;
    if (!PyArg_ParseTuple(args, "O!O!(iL)n", &PyTuple_Type, &inputs, &PyTuple_Type, &weights, &out.file, &out.offset, &size))
        return NULL;
    int count = open_inputs(inputs, weights, objects, factors);
    if (count < 0) return NULL;
    for (int k = 0; k < count; k++)
        if (!PyArg_ParseTuple(objects[k], "iL", &places[k].file, &places[k].offset)) return NULL;
    uint16_t *memory = malloc((count + 1) * sizeof(uint16_t) * PIECE);
    if (memory == NULL) return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS
    written = sum_places(places, factors, count, out, size, memory);
    Py_END_ALLOW_THREADS
    free(memory);
    return PyLong_FromSsize_t(written);
}
#endif

static PyObject *task_vector_sum(PyObject *module, PyObject *args) {
    PyObject *inputs, *weights, *cuts, *objects[MOST_INPUTS + 2];
    Py_buffer views[MOST_INPUTS + 2];
    Source sources[MOST_INPUTS];
    float factors[MOST_INPUTS], divisor = 0;
    double scale;
    int normalize;
    if (!PyArg_ParseTuple(args, "O!O!O!pdOO", &PyTuple_Type, &inputs, &PyTuple_Type, &weights, &PyTuple_Type, &cuts,
                          &normalize, &scale, &objects[0], &objects[1]))
        return NULL;
    PyObject *base = objects[0], *out = objects[1];
    int count = open_inputs(inputs, weights, objects, factors), vote = PyTuple_Size(cuts) > 0;
    if (count < 0) return NULL;
    if (vote && PyTuple_Size(cuts) != count)
        return PyErr_Format(PyExc_ValueError, "no cuts, or one for each input, are needed");
    for (int k = 0; k < count; k++) {
        sources[k] = (Source){NULL, factors[k], -1, -1};
        if (vote && !PyArg_ParseTuple(PyTuple_GetItem(cuts, k), "in", &sources[k].threshold, &sources[k].last)) return NULL;
        divisor += factors[k];
    }
    objects[count] = base;
    objects[count + 1] = out;
    Py_ssize_t size = open_buffers(objects, count + 2, 1, views);
    if (size < 0) return NULL;
    for (int k = 0; k < count; k++) sources[k].codes = views[k].buf;
    if (!normalize || !(fabsf(divisor) >= 1e-8f)) divisor = 1; /* also for NaN */
    Py_BEGIN_ALLOW_THREADS
    if (vote)
        elect_task_vectors(sources, count, views[count].buf, normalize, (float)scale, views[count + 1].buf, size);
    else
        add_task_vectors(sources, count, views[count].buf, divisor, (float)scale, views[count + 1].buf, size);
    Py_END_ALLOW_THREADS
    for (int k = 0; k < count + 2; k++) PyBuffer_Release(&views[k]);
    Py_RETURN_NONE;
}

static PyObject *magnitude_band(PyObject *module, PyObject *args) {
    PyObject *objects[2];
    Py_buffer views[2], inside;
    int low, high;
    Py_ssize_t counts[4] = {0};
    if (!PyArg_ParseTuple(args, "OOiiw*", &objects[0], &objects[1], &low, &high, &inside)) return NULL;
    Py_ssize_t size = open_buffers(objects, 2, 0, views);
    int fits = size < 0 || inside.len >= 4 * size;
    if (size >= 0 && fits) {
        Py_BEGIN_ALLOW_THREADS
        find_band(views[0].buf, views[1].buf, size, low, high, inside.buf, counts);
        Py_END_ALLOW_THREADS
    }
    if (!fits) PyErr_SetString(PyExc_ValueError, "32 bits of room for each element are needed");
    PyBuffer_Release(&inside);
    if (size >= 0) {
        PyBuffer_Release(&views[0]);
        PyBuffer_Release(&views[1]);
    }
    return size < 0 || !fits ? NULL : Py_BuildValue("(nnnn)", counts[0], counts[1], counts[2], counts[3]);
}

static PyObject *absolute_sums(PyObject *module, PyObject *args) {
    PyObject *objects[2];
    Py_buffer views[2];
    double sums[3] = {0};
    if (!PyArg_ParseTuple(args, "OO", &objects[0], &objects[1])) return NULL;
    Py_ssize_t size = open_buffers(objects, 2, 0, views);
    if (size < 0) return NULL;
    Py_BEGIN_ALLOW_THREADS
    absolute(views[0].buf, views[1].buf, size, sums);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&views[0]);
    PyBuffer_Release(&views[1]);
    return Py_BuildValue("(ddd)", sums[0], sums[1], sums[2]);
}

static PyObject *line_sums(PyObject *module, PyObject *args) {
    PyObject *objects[3];
    Py_buffer views[3];
    float weights[2];
    double sums[PRODUCTS + COUNTS] = {0};
    if (!PyArg_ParseTuple(args, "OOO|ff", &objects[0], &objects[1], &objects[2], &weights[0], &weights[1])) return NULL;
    int weighted = PyTuple_Size(args) == 5;
    Py_ssize_t size = open_buffers(objects, 3, 0, views);
    if (size < 0) return NULL;
    Py_BEGIN_ALLOW_THREADS
    products(views[0].buf, views[1].buf, views[2].buf, size, weighted ? weights : NULL, sums);
    Py_END_ALLOW_THREADS
    for (int k = 0; k < 3; k++) PyBuffer_Release(&views[k]);
    PyObject *found = PyList_New(0);
    for (int k = 0; found && k < PRODUCTS + (weighted ? COUNTS : 2); k++) {
        PyObject *sum = PyFloat_FromDouble(sums[k]);
        if (!sum || PyList_Append(found, sum)) Py_CLEAR(found);
        Py_XDECREF(sum);
    }
    return found;
}

static PyObject *block_sums(PyObject *module, PyObject *args) {
    Py_buffer data, keys, out;
    if (!PyArg_ParseTuple(args, "y*y*w*", &data, &keys, &out)) return NULL;
    int fits = keys.len && keys.len % 8 == 0 && data.len % keys.len == 0 && out.len == data.len / keys.len * 8;
    if (fits) {
        Py_BEGIN_ALLOW_THREADS
        nh(data.buf, keys.buf, out.buf, data.len / keys.len, keys.len / 4);
        Py_END_ALLOW_THREADS
    } else
        PyErr_SetString(PyExc_ValueError, "whole blocks of the keys' length, and 8 bytes of output for each, are needed");
    PyBuffer_Release(&data);
    PyBuffer_Release(&keys);
    PyBuffer_Release(&out);
    if (!fits) return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"weighted_sum", weighted_sum, METH_VARARGS, "(inputs, weights, out): write the rounded sum of weight times input."},
#ifdef HAS_FILES
    {"sum_files", sum_files, METH_VARARGS,
     "(inputs, weights, out, size): write the rounded sum of weight times what lies in files; how many elements."},
#endif
    {"task_vector_sum", task_vector_sum, METH_VARARGS,
     "(inputs, weights, cuts, normalize, scale, base, out): write base + scale * sum of weight * (input - base), rounded."},
    {"magnitude_band", magnitude_band, METH_VARARGS,
     "(x, base, low, high, inside): how many |x - base| lie above, at high, inside, at low; the bits inside are written."},
    {"absolute_sums", absolute_sums, METH_VARARGS, "(a, b): the sums of |a - b|, |a| and |b|."},
    {"line_sums", line_sums, METH_VARARGS,
     "(m, a, b[, wa, wb]): products of m - a, b - a and a; how many m differ from a, b and the rounded wa * a + wb * b."},
    {"block_sums", block_sums, METH_VARARGS, "(data, keys, out): write the NH sum of every block of the keys' length."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_kernels", NULL, -1, methods};

PyMODINIT_FUNC PyInit__kernels(void) { return PyModule_Create(&definition); }
