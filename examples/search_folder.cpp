// Makes a folder of images searchable with a CLIP checkpoint, and searches it with words, through the library's own
// calls.
//
//   search_folder CLIP_FOLDER IMAGE_FOLDER INDEX [TEXT...]
//
// CLIP_FOLDER is one that Hugging Face's transformers wrote (config.json, model.safetensors) or open_clip
// (open_clip_config.json, open_clip_model.safetensors), with vocab.json and merges.txt, or tokenizer.json; what its
// configuration leaves out is upstream's default, and printed. INDEX is made if it is not there and filled with the
// images that it lacks; a run that was stopped goes on. Prints the five nearest images of each text. Exit status: 0, 1
// for an error, 2 for wrong arguments. Not a medical device.
#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>

#include <filesystem>
#include <iostream>
#include <optional>

#include "daug/core/error.h"
#include "daug/encoder/clip_checkpoint.h"
#include "daug/encoder/tokenizer.h"
#include "daug/io/fingerprint.h"
#include "daug/train/index_folder.h"

int main(int argc, char** argv) {
  if (argc < 4 || argv[1][0] == '-') {
    std::cerr << "usage: search_folder CLIP_FOLDER IMAGE_FOLDER INDEX [TEXT...]\n";
    return 2;
  }
  try {
    const std::string model = argv[1], path = argv[3];
    daug::ClipLoadOptions how;
    how.assume_defaults = true;
    daug::ClipModel clip = daug::load_clip_folder(model, how);
    for (const auto& field : clip.assumed) std::cerr << "assumed: " << field << "\n";
    std::optional<daug::Tokenizer> tokenizer;
    if (argc > 4) {
      tokenizer.emplace(daug::Tokenizer::load(model));
      daug::require_vocabulary(clip.text, *tokenizer, "search_folder");
    }
    const std::string fingerprint = daug::fingerprint_file(daug::clip_weights_file(model));
    if (!std::filesystem::exists(path))
      daug::RetrievalIndex(clip.image->options().embed_dim, daug::Metric::kCosine, fingerprint).save(path);
    daug::IndexWriter index(path, fingerprint);

    c10::InferenceMode inference;
    daug::IndexFolderOptions options;
    options.preprocess = {static_cast<int>(clip.image->options().image_size), daug::Fit::kCenterCrop,
                          daug::ResizeFilter::kBicubic};
    options.skip_bad = true;
    daug::RunControl control;
    control.progress = [](const daug::Progress& progress) {
      std::cerr << "\r" << progress.done << " of " << progress.total << " " << progress.unit << std::flush;
    };
    const auto embed = [&](const at::Tensor& images) {
      return clip.image->forward(daug::scaled_pixels(images, daug::kClipPixels));
    };
    const auto result = daug::index_folder(argv[2], index, embed, options, control);
    std::cerr << "\n";
    for (const auto& failure : result.failures) std::cerr << "left out: " << failure.message << "\n";
    std::cout << result.added << " images added, " << result.present << " were there\n";
    if (!tokenizer || index.index().size() == 0) return 0;

    const std::vector<std::string> texts(argv + 4, argv + argc);
    const auto batch = tokenizer->encode_batch_longest(texts, clip.text->options().context_length);
    const auto rows = static_cast<std::int64_t>(texts.size());
    const at::Tensor vectors = clip.text->forward(at::tensor(batch.ids, at::kLong).view({rows, -1}), {}).contiguous();
    const Eigen::Map<const daug::RowMatrix> queries(vectors.const_data_ptr<float>(), rows, vectors.size(1));
    daug::SearchOptions of_model;
    of_model.fingerprint = fingerprint;
    const auto hits = index.index().search(queries, std::min<std::int64_t>(5, index.index().size()), of_model);
    for (std::size_t i = 0; i < texts.size(); ++i) {
      std::cout << texts[i] << "\n";
      for (const auto& hit : hits[i]) std::cout << "  " << hit.score << "  " << index.index().name(hit.id) << "\n";
    }
  } catch (const c10::Error& error) {
    std::cerr << "error: " << error.what_without_backtrace() << "\n";
    return 1;
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 1;
  }
  return 0;
}
