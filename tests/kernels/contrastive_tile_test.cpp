#include "kernels/contrastive_tile.h"

#include <limits>

#include "kernels/cuda/launch_plan.h"
#include "kernels/emulation.h"
#include "kernels/kernels.h"

using namespace daug;
using namespace daug::kernels;
using namespace daug::test;

namespace {

/// A tile with everything that may be there, and its definition in float64.
struct Problem {
  std::int64_t rows, columns;
  std::vector<float> products, row_factor, column_factor, row_group, column_group, row_weight, column_weight, soft;
  ScoreTile tile;

  /// Bits of `parts`: groups that attract, groups that are ignored, soft pairs in place of both. `spread` is the
  /// deviation of the scores.
  Problem(std::int64_t rows_, std::int64_t columns_, std::int64_t own, unsigned parts, double spread)
      : rows(rows_),
        columns(columns_),
        products(random_floats(rows * columns, 1)),
        row_factor(random_floats(rows, 2, spread, spread / 10)),
        column_factor(random_floats(columns, 3, 1, 0.1)),
        row_weight(random_floats(rows, 4, 0.5, 0.1)),
        column_weight(random_floats(columns, 5, 0.2, 0.05)),
        soft(random_floats(rows * columns, 6, 0.5, 0.5)) {
    for (float& x : soft) x = std::min(std::max(x, 0.0F), 1.0F);  // 0 and 1 among them
    // Groups of global items i % 5, so that an item's own column is of its group.
    for (std::int64_t i = 0; i < rows; ++i) row_group.push_back(static_cast<float>((i + 1000) % 5));
    for (std::int64_t j = 0; j < columns; ++j) column_group.push_back(static_cast<float>((j - own + 1000) % 5));
    tile.rows = rows, tile.columns = columns, tile.own = own;
    tile.products = products.data();
    tile.row_factor = row_factor.data(), tile.column_factor = column_factor.data();
    if (parts & 1) tile.row_positive = row_group.data(), tile.column_positive = column_group.data();
    if (parts & 2) tile.row_ignored = row_group.data(), tile.column_ignored = column_group.data();
    if (parts & 5) tile.row_weight = row_weight.data();
    if (parts & 4) tile.soft = soft.data(), tile.column_weight = column_weight.data();
  }

  double score(std::int64_t i, std::int64_t j) const {
    return static_cast<double>(products[at(i, j)]) * (row_factor[index(i)] * column_factor[index(j)]);
  }
  bool attracts(std::int64_t i, std::int64_t j) const {
    return j == i + tile.own || (tile.row_positive && row_group[index(i)] == column_group[index(j)]);
  }
  bool left_out(std::int64_t i, std::int64_t j) const {
    return tile.row_ignored && row_group[index(i)] == column_group[index(j)] && !attracts(i, j);
  }
  /// By how much a pair attracts, apart from weights.
  double part(std::int64_t i, std::int64_t j) const {
    if (tile.soft) return static_cast<double>(soft[at(i, j)]);
    return attracts(i, j) ? 1 : 0;
  }
  double attraction(std::int64_t i, std::int64_t j) const {
    const double row = tile.row_weight ? static_cast<double>(row_weight[index(i)]) : 1.0;
    return part(i, j) * (tile.soft ? (row + static_cast<double>(column_weight[index(j)])) / 2 : row);
  }
  /// Of the products, for a scale of 1/4, from that of the scores.
  double gradient(std::int64_t i, std::int64_t j, double of_score) const {
    return 0.25 * row_factor[index(i)] * column_factor[index(j)] * of_score;
  }
  std::size_t at(std::int64_t i, std::int64_t j) const { return index(i * columns + j); }
  static std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }
};

struct Sums {
  std::vector<float> row_max, row_sum, row_attraction, column_max, column_sum;

  Sums(std::int64_t rows, std::int64_t columns)
      : row_max(static_cast<std::size_t>(rows), std::numeric_limits<float>::lowest()),
        row_sum(row_max.size(), 0.0F),
        row_attraction(row_max.size(), 0.0F),
        column_max(static_cast<std::size_t>(columns), std::numeric_limits<float>::lowest()),
        column_sum(column_max.size(), 0.0F) {}
  SoftmaxSums pointers() {
    return {row_max.data(), row_sum.data(), row_attraction.data(), column_max.data(), column_sum.data()};
  }
};

/// Shapes with rests of every kind; the own column inside, across and outside the tile; scores near and far apart.
void for_each_problem(const std::function<void(const Problem&)>& check) {
  for (const auto& [rows, columns] :
       std::vector<std::pair<std::int64_t, std::int64_t>>{{1, 1}, {3, 9}, {65, 7}, {70, 300}})
    for (const std::int64_t own : {0, 3, -2, 1000})
      for (unsigned parts = 0; parts <= 4; ++parts)
        for (const double spread : {1.0, 60.0}) {
          INFO("rows " << rows << " columns " << columns << " own " << own << " parts " << parts << " spread "
                       << spread);
          check(Problem(rows, columns, own, parts, spread));
        }
}

double logsumexp(const std::vector<double>& values) {
  const double top = *std::max_element(values.begin(), values.end());
  double sum = 0;
  for (const double x : values) sum += std::exp(x - top);
  return top + std::log(sum);
}

/// log sum of exponentials over the rows (of the columns) of what is left in.
std::vector<double> expected_logs(const Problem& p, bool over_rows) {
  std::vector<double> result;
  for (std::int64_t i = 0; i < (over_rows ? p.rows : p.columns); ++i) {
    std::vector<double> line;
    for (std::int64_t j = 0; j < (over_rows ? p.columns : p.rows); ++j) {
      const std::int64_t row = over_rows ? i : j, column = over_rows ? j : i;
      if (!p.left_out(row, column)) line.push_back(p.score(row, column));
    }
    result.push_back(line.empty() ? -1e38 : logsumexp(line));
  }
  return result;
}

/// softmax_gradient for a scale of 1/4, from expected_logs of both sides.
std::vector<double> expected_softmax_gradient(const Problem& p, const std::vector<double>& rows,
                                              const std::vector<double>& columns) {
  std::vector<double> result;
  for (std::int64_t i = 0; i < p.rows; ++i)
    for (std::int64_t j = 0; j < p.columns; ++j) {
      const double s = p.score(i, j);
      const double both = (std::exp(s - rows[Problem::index(i)]) + std::exp(s - columns[Problem::index(j)])) / 2;
      result.push_back(p.gradient(i, j, p.left_out(i, j) ? 0 : both - p.attraction(i, j)));
    }
  return result;
}

/// The sigmoid loss of a pair and its derivative by the score.
struct SigmoidPair {
  double x, loss = 0, slope = 0;

  SigmoidPair(const Problem& p, std::int64_t i, std::int64_t j, double bias) : x(p.score(i, j) + bias) {
    if (p.left_out(i, j)) return;
    const auto softplus = [](double z) { return std::max(z, 0.0) + std::log1p(std::exp(-std::abs(z))); };
    const double part = p.part(i, j);
    loss = part * softplus(-x) + (1 - part) * softplus(x);
    slope = (1 - part) / (1 + std::exp(-x)) - part / (1 + std::exp(x));
  }
};

}  // namespace

TEST_CASE("softmax sums agree with their definition in float64", "[kernels]") {
  for_each_instruction_set([] {
    for_each_problem([](const Problem& p) {
      Sums sums(p.rows, p.columns);
      std::vector<float> scores(p.products.size());
      add_softmax_sums(p.tile, scores.data(), sums.pointers(), {});
      const auto rows = expected_logs(p, true), columns = expected_logs(p, false);
      for (std::int64_t i = 0; i < p.rows; ++i) {
        const auto at = Problem::index(i);
        double attraction = 0;
        for (std::int64_t j = 0; j < p.columns; ++j) attraction += p.attraction(i, j) * p.score(i, j);
        // Soft pairs add up all scores, which may cancel.
        const double total = static_cast<double>(p.columns) * static_cast<double>(p.row_factor[at]);
        CHECK(sums.row_attraction[at] == Approx(attraction).epsilon(1e-5).margin(std::max(1e-4, 1e-7 * total)));
        if (rows[at] > -1e37)
          CHECK(sums.row_max[at] + std::log(sums.row_sum[at]) == Approx(rows[at]).epsilon(2e-6).margin(2e-6));
      }
      for (std::int64_t j = 0; j < p.columns; ++j) {
        const auto at = Problem::index(j);
        if (columns[at] > -1e37)
          CHECK(sums.column_max[at] + std::log(sums.column_sum[at]) == Approx(columns[at]).epsilon(2e-6).margin(2e-6));
      }
      // Tiles one after the other are one tile: twice the same doubles every sum.
      const Sums once = sums;
      add_softmax_sums(p.tile, scores.data(), sums.pointers(), {});
      for (std::size_t i = 0; i < sums.row_sum.size(); ++i)
        CHECK(sums.row_sum[i] == Approx(2 * once.row_sum[i]).epsilon(1e-6));
      for (std::size_t j = 0; j < sums.column_sum.size(); ++j)
        CHECK(sums.column_sum[j] == Approx(2 * once.column_sum[j]).epsilon(1e-6));
    });
  });
}

TEST_CASE("softmax gradients agree with their definition in float64", "[kernels]") {
  for_each_instruction_set([] {
    for_each_problem([](const Problem& p) {
      auto rows = expected_logs(p, true), columns = expected_logs(p, false);
      const auto split = [](const std::vector<double>& logs) {
        std::pair<std::vector<float>, std::vector<float>> parts;
        for (const double x : logs) {
          parts.first.push_back(static_cast<float>(x));
          parts.second.push_back(static_cast<float>(x - static_cast<double>(parts.first.back())));
        }
        return parts;
      };
      const auto row = split(rows), column = split(columns);
      const SoftmaxLogs logs{row.first.data(), row.second.data(), column.first.data(), column.second.data()};
      std::vector<float> gradient(p.products.size());
      softmax_gradient(p.tile, logs, 0.25F, gradient.data(), {});
      const auto expected = expected_softmax_gradient(p, rows, columns);
      CHECK(largest_error(gradient, expected) < 5e-5);

      // From stored scores the same.
      std::vector<float> scores(p.products.size()), again(p.products.size());
      Sums sums(p.rows, p.columns);
      add_softmax_sums(p.tile, scores.data(), sums.pointers(), {});
      ScoreTile stored = p.tile;
      stored.products = scores.data(), stored.scaled = true;
      softmax_gradient(stored, logs, 0.25F, again.data(), {});
      CHECK(again == gradient);
    });
  });
}

TEST_CASE("sigmoid losses and gradients agree with their definition in float64", "[kernels]") {
  for_each_instruction_set([] {
    for_each_problem([](const Problem& p) {
      const float bias = -1.5F;
      std::vector<double> loss(Problem::index(p.rows)), total(loss.size()), expected;
      std::vector<float> gradient(p.products.size());
      add_sigmoid_loss(p.tile, bias, loss.data(), {});
      sigmoid_gradient(p.tile, bias, 0.25F, gradient.data(), total.data(), {});
      for (std::int64_t i = 0; i < p.rows; ++i) {
        double row_loss = 0, row_total = 0, largest = 0;
        for (std::int64_t j = 0; j < p.columns; ++j) {
          const SigmoidPair pair(p, i, j, static_cast<double>(bias));
          largest = std::max(largest, std::abs(pair.x));
          row_loss += pair.loss;
          row_total += pair.slope;
          expected.push_back(p.gradient(i, j, pair.slope));
        }
        // A score of float32 is off by up to two of its roundings, which its exponential turns into a relative error.
        CHECK(loss[Problem::index(i)] == Approx(row_loss).epsilon(2e-6 + 1.2e-7 * largest).margin(1e-30));
        CHECK(total[Problem::index(i)] == Approx(row_total).epsilon(2e-5).margin(2e-5));
      }
      CHECK(largest_error(gradient, expected) < 2e-5);
    });
  });
}

TEST_CASE("tiles are bit-equal whatever threads there are", "[kernels]") {
  const auto check = [](unsigned parts) {
    const Problem p(200, 700, 5, parts, 8);
    const auto run = [&](const Parallel& parallel) {
      Sums sums(p.rows, p.columns);
      std::vector<float> scores(p.products.size()), gradient(scores.size()), sigmoid(scores.size());
      std::vector<double> loss(Problem::index(p.rows)), total(loss.size());
      add_softmax_sums(p.tile, scores.data(), sums.pointers(), parallel);
      const SoftmaxLogs logs{sums.row_max.data(), sums.row_sum.data(), sums.column_max.data(), sums.column_sum.data()};
      softmax_gradient(p.tile, logs, 0.5F, gradient.data(), parallel);
      add_sigmoid_loss(p.tile, -2.0F, loss.data(), parallel);
      sigmoid_gradient(p.tile, -2.0F, 0.5F, sigmoid.data(), total.data(), parallel);
      std::vector<double> all(loss);
      all.insert(all.end(), total.begin(), total.end());
      for (const auto* part : {&sums.row_max, &sums.row_sum, &sums.row_attraction, &sums.column_max, &sums.column_sum,
                               &scores, &gradient, &sigmoid})
        all.insert(all.end(), part->begin(), part->end());
      return all;
    };
    const auto alone = run({});
    for (const int threads : {2, 3, 5}) CHECK(run(odd_threads(threads)) == alone);
  };
  for_each_instruction_set([&] { check(3), check(4); });
}

TEST_CASE("an empty tile is nothing", "[kernels]") {
  const ScoreTile tile;
  add_softmax_sums(tile, nullptr, {}, {});
  softmax_gradient(tile, {}, 1, nullptr, {});
  std::vector<double> nothing;
  add_sigmoid_loss(tile, 0, nothing.data(), {});
  sigmoid_gradient(tile, 0, 1, nullptr, nothing.data(), {});
  CHECK(nothing.empty());
}

namespace {

/// A tile and sums in the memory of a device, beginning `skipped` bytes behind a multiple of 16.
struct OnDevice {
  DeviceMemory products, row_factor, column_factor, row_group, column_group, row_weight, column_weight, soft, row_max,
      row_sum, row_attraction, column_max, column_sum;
  ScoreTile tile;
  Launched launched;

  OnDevice(const Problem& p, const Sums& sums, std::size_t skipped)
      : products(p.products, skipped),
        row_factor(p.row_factor, skipped),
        column_factor(p.column_factor, skipped),
        row_group(p.row_group, skipped),
        column_group(p.column_group, skipped),
        row_weight(p.row_weight, skipped),
        column_weight(p.column_weight, skipped),
        soft(p.soft, skipped),
        row_max(sums.row_max, skipped),
        row_sum(sums.row_sum, skipped),
        row_attraction(sums.row_attraction, skipped),
        column_max(sums.column_max, skipped),
        column_sum(sums.column_sum, skipped),
        tile(p.tile) {
    const auto put = [](const float*& pointer, DeviceMemory& memory) {
      if (pointer) pointer = memory.floats();
    };
    put(tile.products, products), put(tile.row_factor, row_factor), put(tile.column_factor, column_factor);
    put(tile.row_positive, row_group), put(tile.column_positive, column_group);
    put(tile.row_ignored, row_group), put(tile.column_ignored, column_group);
    put(tile.row_weight, row_weight), put(tile.column_weight, column_weight), put(tile.soft, soft);
  }

  SoftmaxSums pointers() {
    return {row_max.floats(), row_sum.floats(), row_attraction.floats(), column_max.floats(), column_sum.floats()};
  }
  void add(float* scores) {
    DeviceMemory workspace(static_cast<std::size_t>(2 * cuda::tile_blocks(tile.rows) * tile.columns) * sizeof(float));
    launched.check(add_softmax_sums_device(tile, scores, pointers(), workspace.floats(), launched.where));
  }
  Sums sums() const {
    Sums result(0, 0);
    result.row_max = row_max.values<float>(), result.row_sum = row_sum.values<float>();
    result.row_attraction = row_attraction.values<float>();
    result.column_max = column_max.values<float>(), result.column_sum = column_sum.values<float>();
    return result;
  }
};

/// As for_each_problem, and around what a block and a thread take; `skipped` bytes of misalignment.
void for_each_tile(const std::function<void(const Problem&, std::size_t skipped)>& check) {
  for_each_problem([&](const Problem& p) {
    if (p.rows < 65 || (p.tile.own == 3 && p.row_factor[0] < 10)) check(p, p.tile.row_positive ? 4 : 0);
  });
  for (const auto& [rows, columns] : std::vector<std::pair<std::int64_t, std::int64_t>>{
           {8, 1024}, {9, 1025}, {7, 2047}, {5, 2048}, {12, 1020}, {17, 256}, {19, 1028}, {4, 4}})
    for (unsigned parts = 0; parts <= 4; ++parts) {
      INFO("rows " << rows << " columns " << columns << " parts " << parts);
      check(Problem(rows, columns, rows % 3 - 1, parts, 6), parts == 2 ? 8 : 0);
    }
  // Blocks of more rows, and more of them than threads that share the parts of a column.
  INFO("2050 rows of 17 columns");
  check(Problem(2050, 17, -1001, 0, 6), 0);
}

/// Numbers of bfloat16 of rows that begin 2 * columns apart.
std::vector<float> narrow_rows(const DeviceMemory& memory, std::int64_t rows, std::int64_t columns) {
  const auto all = from_device(memory, Element::kBfloat16);
  std::vector<float> result;
  for (std::int64_t i = 0; i < rows; ++i)
    result.insert(result.end(), all.begin() + 2 * i * columns, all.begin() + (2 * i + 1) * columns);
  return result;
}

void append(std::vector<double>& all, const std::vector<float>& values) {
  all.insert(all.end(), values.begin(), values.end());
}

std::vector<float> rounded(std::vector<float> values) {
  round_to(Element::kBfloat16, values);
  return values;
}

}  // namespace

TEST_CASE("softmax sums of a device, emulated, agree with their definition in float64", "[kernels][emulated]") {
  for_each_tile([](const Problem& p, std::size_t skipped) {
    std::vector<float> written;
    Sums sums(0, 0), twice(0, 0);
    in_both_orders([&] {
      OnDevice d(p, Sums(p.rows, p.columns), skipped);
      DeviceMemory apart(p.products.size() * sizeof(float), skipped);
      DeviceMemory& scores = p.tile.own == 0 ? d.products : apart;  // which may take the place of products
      d.add(scores.floats());
      sums = d.sums();
      written = scores.values<float>();
      d.tile.scaled = true, d.tile.products = scores.floats();
      d.add(nullptr);
      twice = d.sums();
      std::vector<double> all;
      for (const Sums* of : {&sums, &twice})
        for (const auto* part : {&of->row_max, &of->row_sum, &of->row_attraction, &of->column_max, &of->column_sum})
          append(all, *part);
      append(all, written);
      return all;
    });
    CHECK((twice.row_max == sums.row_max && twice.column_max == sums.column_max));
    const auto rows = expected_logs(p, true), columns = expected_logs(p, false);
    std::int64_t wrong = 0;
    for (std::int64_t i = 0; i < p.rows; ++i) {
      const auto at = Problem::index(i);
      double attraction = 0, sizes = 0;
      for (std::int64_t j = 0; j < p.columns; ++j) {
        const double part = p.attraction(i, j) * p.score(i, j);
        attraction += part, sizes += std::abs(part);
        const float score = written[p.at(i, j)];
        wrong += p.left_out(i, j) ? score > -1e37F : score != static_cast<float>(p.score(i, j));
      }
      CHECK(std::abs(sums.row_attraction[at] - attraction) <= 1e-6 * sizes);
      CHECK(twice.row_attraction[at] == Approx(2 * sums.row_attraction[at]));
      CHECK(twice.row_sum[at] == Approx(2 * sums.row_sum[at]));
      if (rows[at] > -1e37)
        CHECK(sums.row_max[at] + std::log(sums.row_sum[at]) == Approx(rows[at]).epsilon(2e-6).margin(2e-6));
    }
    CHECK(wrong == 0);
    for (std::int64_t j = 0; j < p.columns; ++j) {
      const auto at = Problem::index(j);
      CHECK(twice.column_sum[at] == Approx(2 * sums.column_sum[at]));
      if (columns[at] > -1e37)
        CHECK(sums.column_max[at] + std::log(sums.column_sum[at]) == Approx(columns[at]).epsilon(2e-6).margin(2e-6));
    }
  });
}

TEST_CASE("softmax gradients of a device, emulated, agree with their definition in float64", "[kernels][emulated]") {
  for_each_tile([](const Problem& p, std::size_t skipped) {
    const auto rows = expected_logs(p, true), columns = expected_logs(p, false);
    Sums known(p.rows, p.columns);
    const auto put = [](const std::vector<double>& logs, std::vector<float>& max, std::vector<float>& sum) {
      for (std::size_t i = 0; i < logs.size(); ++i) {
        max[i] = static_cast<float>(logs[i]) + 0.5F;
        sum[i] = static_cast<float>(std::exp(logs[i] - static_cast<double>(max[i])));
      }
    };
    put(rows, known.row_max, known.row_sum), put(columns, known.column_max, known.column_sum);
    const auto gradient = in_both_orders([&] {
      OnDevice d(p, known, skipped);
      DeviceMemory apart(p.products.size() * sizeof(float), skipped);
      const auto write = [&](OnDevice& tile, void* to, bool bfloat16) {
        tile.launched.check(
            softmax_gradient_device(tile.tile, tile.pointers(), 0.25F, to, bfloat16, tile.launched.where));
      };
      write(d, apart.data(), false);
      std::vector<float> result = apart.values<float>();
      write(d, d.products.data(), false);
      CHECK(d.products.values<float>() == result);
      OnDevice narrow(p, known, skipped);
      write(narrow, narrow.products.data(), true);
      CHECK(narrow_rows(narrow.products, p.rows, p.columns) == rounded(result));
      return result;
    });
    const auto expected = expected_softmax_gradient(p, rows, columns);
    CHECK(largest_error(gradient, expected) < 1e-4);
  });
}

TEST_CASE("sigmoid losses and gradients of a device, emulated, agree with float64", "[kernels][emulated]") {
  for_each_tile([](const Problem& p, std::size_t skipped) {
    const float bias = -1.5F;
    const auto blocks = static_cast<std::size_t>(cuda::tile_blocks(p.rows));
    std::vector<float> gradient;
    const auto sums = in_both_orders([&] {
      OnDevice d(p, Sums(p.rows, p.columns), skipped), narrow(p, Sums(p.rows, p.columns), skipped);
      DeviceMemory loss(blocks * sizeof(double)), total(blocks * sizeof(double)), again(blocks * sizeof(double));
      DeviceMemory bias_there(std::vector<float>{bias}, skipped);
      const auto write = [&](OnDevice& tile, bool bfloat16, DeviceMemory& to) {
        tile.launched.check(sigmoid_gradient_device(tile.tile, bias_there.floats(), 0.25F, tile.products.data(),
                                                    bfloat16, static_cast<double*>(to.data()), tile.launched.where));
      };
      d.launched.check(
          sigmoid_loss_device(d.tile, bias_there.floats(), static_cast<double*>(loss.data()), d.launched.where));
      write(d, false, total), write(narrow, true, again);
      gradient = d.products.values<float>();
      CHECK(narrow_rows(narrow.products, p.rows, p.columns) == rounded(gradient));
      CHECK(again.values<double>() == total.values<double>());
      std::vector<double> all = loss.values<double>();
      for (const double x : total.values<double>()) all.push_back(x);
      append(all, gradient);
      return all;
    });
    std::vector<double> expected;
    for (std::size_t block = 0; block < blocks; ++block) {
      double loss = 0, total = 0, largest = 0;
      const std::int64_t of_block = cuda::tile_rows_of_block(p.rows);
      const auto first = static_cast<std::int64_t>(block) * of_block;
      for (std::int64_t i = first; i < std::min(first + of_block, p.rows); ++i)
        for (std::int64_t j = 0; j < p.columns; ++j) {
          const SigmoidPair pair(p, i, j, static_cast<double>(bias));
          largest = std::max(largest, std::abs(pair.x));
          loss += pair.loss;
          total += pair.slope;
          expected.push_back(p.gradient(i, j, pair.slope));
        }
      CHECK(sums[block] == Approx(loss).epsilon(2e-6 + 3e-7 * largest).margin(1e-30));
      CHECK(sums[blocks + block] == Approx(total).epsilon(2e-5).margin(2e-5));
    }
    CHECK(largest_error(gradient, expected) < 5e-5);
  });
}

TEST_CASE("tiles of a device, emulated: nothing to do, and more than a launch takes", "[kernels][emulated]") {
  ScoreTile tile;
  const std::int64_t before = emulation::launches;
  CHECK(add_softmax_sums_device(tile, nullptr, {}, nullptr, {}).problem == nullptr);
  CHECK(sigmoid_loss_device(tile, nullptr, nullptr, {}).problem == nullptr);
  tile.rows = 1, tile.columns = cuda::kMostTileColumns + 1;
  CHECK(softmax_gradient_device(tile, {}, 1, nullptr, false, {}).problem != nullptr);
  CHECK(sigmoid_gradient_device(tile, nullptr, 1, nullptr, false, nullptr, {}).problem != nullptr);
  CHECK(emulation::launches == before);
}
