// Train a fully connected net, plainly or data-parallel: what a step costs without Python.
//
//     mlp JOB            alone, or started by mpiexec on any number of ranks
//
// JOB holds the net, its first weights and the batches; `bench/peers/cpp.py` writes it. Orders come
// as lines on the standard input of rank 0, and each is answered by a line on its standard output:
//
//     steps FIRST COUNT UNTIMED    trains on UNTIMED and then on COUNT batches, both times from
//                                  number FIRST on -> the seconds of the COUNT steps
//     weights PATH                 writes all parameters to a file -> the loss of the last step
//     (an empty line)              ends the program
//
// While there is no order all ranks sleep, so that other programs can be timed in turn with this
// one. The arithmetic is that of `nn`: ReLU between the layers, softmax cross-entropy divided by
// the rows of the global batch, plain SGD.

#include <cblas.h>
#include <mpi.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

using std::size_t;
using std::vector;

const int PATIENCE = 600'000;  // milliseconds without an order after which the program ends

// c = a b for row-major matrices, a or b transposed where asked for: (m x k) (k x n).
template <class Real>
void product(bool ta, bool tb, int m, int n, int k, const Real* a, const Real* b, Real* c) {
    const auto kind_a = ta ? CblasTrans : CblasNoTrans, kind_b = tb ? CblasTrans : CblasNoTrans;
    const int lda = ta ? m : k, ldb = tb ? k : n;
    const auto gemm = [] {
        if constexpr (sizeof(Real) == 4) return scipy_cblas_sgemm;
        else return scipy_cblas_dgemm;
    }();
    gemm(CblasRowMajor, kind_a, kind_b, m, n, k, 1, a, lda, b, ldb, 0, c, n);
}

// The numbers of a file, one after the other.
class Job {
public:
    explicit Job(const std::string& path) : file(path, std::ios::binary) {
        if (!file) throw std::runtime_error(path + ": expected a file of bench/peers/cpp.py");
    }
    template <class Number>
    vector<Number> read(size_t count) {
        vector<Number> numbers(count);
        file.read(reinterpret_cast<char*>(numbers.data()), count * sizeof(Number));
        if (!file) throw std::runtime_error("the job ends too early");
        return numbers;
    }

private:
    std::ifstream file;
};

template <class Real>
struct Layer {
    int inputs, outputs;
    Real *weight, *bias, *dweight, *dbias;  // into the two flat vectors of the net
    vector<Real> y, dy;                     // of this rank's rows

    void forward(const Real* x, int rows, bool is_last) {
        product<Real>(false, true, rows, outputs, inputs, x, weight, y.data());
        for (int i = 0; i < rows; ++i) {
            Real* row = &y[size_t(i) * outputs];
            for (int j = 0; j < outputs; ++j) row[j] += bias[j];
            if (!is_last)
                for (int j = 0; j < outputs; ++j) row[j] = std::max(row[j], Real(0));
        }
    }

    // Write the gradients of the parameters, and into `below` that of the layer's input, a ReLU's.
    void backward(const Real* x, int rows, Layer* below) {
        product<Real>(true, false, outputs, inputs, rows, dy.data(), x, dweight);
        std::fill(dbias, dbias + outputs, Real(0));
        for (int i = 0; i < rows; ++i)
            for (int j = 0; j < outputs; ++j) dbias[j] += dy[size_t(i) * outputs + j];
        if (!below) return;
        product<Real>(false, false, rows, inputs, outputs, dy.data(), weight, below->dy.data());
        for (size_t i = 0; i < size_t(rows) * inputs; ++i) below->dy[i] *= below->y[i] > 0;
    }
};

template <class Real>
class Net {
public:
    Net(Job& job, const vector<int64_t>& sizes, int64_t rows, int64_t batches)
        : rows(rows), lr(Real(job.read<double>(1)[0])) {
        MPI_Comm_rank(MPI_COMM_WORLD, &rank);
        MPI_Comm_size(MPI_COMM_WORLD, &ranks);
        // Part `rank` of nearly equal parts; the first are a row longer, as in `nn.batch.bounds`.
        first = rank * (rows / ranks) + std::min<int64_t>(rank, rows % ranks);
        own = rows / ranks + (rank < rows % ranks);
        size_t length = 0;
        for (size_t i = 1; i < sizes.size(); ++i) length += sizes[i] * (sizes[i - 1] + 1);
        params = job.read<Real>(length);
        grads.assign(length + 1, 0);  // the loss is its last element, so that one message has both
        columns = sizes[0];
        x = job.read<Real>(batches * rows * columns);
        labels = job.read<int64_t>(batches * rows);
        Real *p = params.data(), *g = grads.data();
        for (size_t i = 1; i < sizes.size(); ++i) {
            const int in = int(sizes[i - 1]), out = int(sizes[i]);
            const size_t n = size_t(in) * out, elements = size_t(own) * out;
            const vector<Real> zeros(elements);
            layers.push_back({in, out, p, p + n, g, g + n, zeros, zeros});
            p += n + out, g += n + out;
        }
    }

    void step(int64_t number) {
        const int64_t at = number % (int64_t(labels.size()) / rows) * rows + first;
        const int last = int(layers.size()) - 1;
        const auto input = [&](int i) { return i ? layers[i - 1].y.data() : &x[at * columns]; };
        for (int i = 0; i <= last; ++i) layers[i].forward(input(i), int(own), i == last);
        grads.back() = cross_entropy(&labels[at]);
        for (int i = last; i >= 0; --i)
            layers[i].backward(input(i), int(own), i ? &layers[i - 1] : nullptr);
        if (ranks > 1) {
            const auto type = sizeof(Real) == 4 ? MPI_FLOAT : MPI_DOUBLE;
            const int count = int(grads.size());
            MPI_Allreduce(MPI_IN_PLACE, grads.data(), count, type, MPI_SUM, MPI_COMM_WORLD);
        }
        for (size_t i = 0; i < params.size(); ++i) params[i] -= lr * grads[i];
    }

    void write(const std::string& path) const {
        std::ofstream file(path, std::ios::binary);
        const auto bytes = std::streamsize(params.size() * sizeof(Real));
        file.write(reinterpret_cast<const char*>(params.data()), bytes);
        if (!file) throw std::runtime_error(path + ": cannot be written");
    }

    Real loss() const { return grads.back(); }

private:
    // Return the loss of this rank's rows, and write its gradient with respect to the last outputs.
    Real cross_entropy(const int64_t* label) {
        Layer<Real>& last = layers.back();
        Real sum = 0;
        for (int64_t i = 0; i < own; ++i) {
            const Real* z = &last.y[i * last.outputs];
            Real* dz = &last.dy[i * last.outputs];
            const Real largest = *std::max_element(z, z + last.outputs);
            Real total = 0;
            for (int j = 0; j < last.outputs; ++j) total += dz[j] = std::exp(z[j] - largest);
            sum += std::log(total) - (z[label[i]] - largest);
            for (int j = 0; j < last.outputs; ++j) dz[j] /= total * Real(rows);
            dz[label[i]] -= 1 / Real(rows);
        }
        return sum / Real(rows);
    }

    int rank = 0, ranks = 1;
    int64_t rows, first = 0, own = 0, columns = 0;
    Real lr;
    vector<Real> params, grads, x;
    vector<int64_t> labels;
    vector<Layer<Real>> layers;
};

// The next order, on every rank; empty at the end. Ranks that wait sleep.
std::string next_order() {
    int rank = 0, length = 0, done = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    std::string order;
    pollfd input{STDIN_FILENO, POLLIN, 0};
    if (rank == 0 && poll(&input, 1, PATIENCE) > 0 && std::getline(std::cin, order))
        length = int(order.size());
    MPI_Request request;
    MPI_Ibcast(&length, 1, MPI_INT, 0, MPI_COMM_WORLD, &request);
    while (MPI_Test(&request, &done, MPI_STATUS_IGNORE), !done) usleep(200);
    order.resize(size_t(length));
    MPI_Bcast(order.data(), length, MPI_CHAR, 0, MPI_COMM_WORLD);
    return order;
}

template <class Real>
void obey(Net<Real> net) {
    int rank = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    for (std::string order = next_order(); !order.empty(); order = next_order()) {
        std::istringstream words(order);
        std::string verb, path;
        int64_t start = 0, count = 0, untimed = 0;
        if (words >> verb; verb == "steps" && words >> start >> count >> untimed) {
            for (int64_t i = 0; i < untimed; ++i) net.step(start + i);
            MPI_Barrier(MPI_COMM_WORLD);
            const double begin = MPI_Wtime();
            for (int64_t i = 0; i < count; ++i) net.step(start + i);
            MPI_Barrier(MPI_COMM_WORLD);
            if (rank == 0) std::cout << MPI_Wtime() - begin << std::endl;
        } else if (verb == "weights" && std::getline(words >> std::ws, path)) {
            if (rank == 0) net.write(path), std::cout << net.loss() << std::endl;
        } else {
            throw std::runtime_error(order + ": expected 'steps FIRST COUNT UNTIMED' or 'weights'");
        }
    }
}

int main(int argc, char** argv) {
    MPI_Init(&argc, &argv);
    try {
        if (argc != 2) throw std::runtime_error("expected one argument, the file of the job");
        std::cout << std::setprecision(17);
        Job job(argv[1]);
        const auto head = job.read<int64_t>(4);  // bytes of a number, sizes, rows, batches
        const auto sizes = job.read<int64_t>(size_t(head[1]));
        if (head[0] == 4) obey(Net<float>(job, sizes, head[2], head[3]));
        else obey(Net<double>(job, sizes, head[2], head[3]));
    } catch (const std::exception& error) {
        std::cerr << "mlp: " << error.what() << std::endl;
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    MPI_Finalize();
}
