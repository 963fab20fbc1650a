// The stages that train the encoders and build their indexes.

#include "encoder_stages.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <chrono>
#include <filesystem>
#include <limits>
#include <map>
#include <set>
#include <utility>

#include "daug/encoder/bpe_trainer.h"
#include "daug/encoder/clip_checkpoint.h"
#include "daug/encoder/prompts.h"
#include "daug/encoder/report_text.h"
#include "daug/encoder/tokenizer.h"
#include "daug/encoder/torchvision_checkpoint.h"
#include "daug/io/file.h"
#include "daug/io/fingerprint.h"
#include "daug/train/classify.h"
#include "daug/train/denoiser_trainer.h"
#include "daug/train/encoder_file.h"
#include "daug/translator/noise.h"
#include "run_impl.h"
#include "stage_options.h"
#include "train/ranks.h"

namespace daug {
namespace fs = std::filesystem;

namespace {
std::string arm_file(const std::string& name, const char* ending) {
  std::string name_for_file;
  for (char c : name) name_for_file += std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
  return "encoders/" + name_for_file + ending;
}

TextCleaning text_cleaning(const RunConfig& config) {
  return config.encoder.text_cleaning == "open_clip" ? TextCleaning::kOpenClip : TextCleaning::kTransformers;
}

PositionFilter position_filter(const std::string& setting) {
  if (setting == "bicubic") return PositionFilter::kBicubic;
  return setting == "linear" ? PositionFilter::kLinear : PositionFilter::kBicubicAntialias;
}
}  // namespace

std::string Arm::file() const { return arm_file(name, ".safetensors"); }

std::string Arm::last_file() const { return arm_file(name, ".last.safetensors"); }

std::vector<Arm> Run::Impl::paper_arms() const {
  const double hybrid = config.encoder.clip_weight;
  const std::string& maps_kind = config.encoder.maps;
  const std::string with_maps = "image+" + maps_kind;
  return {{"image, image-text loss", "", 1.0},
          {"image", "", hybrid},
          {with_maps + ", image-text loss", maps_kind, 1.0},
          {with_maps, maps_kind, hybrid}};
}

std::vector<Arm> Run::Impl::arms() const {
  const double hybrid = config.encoder.clip_weight;
  std::vector<Arm> list = paper_arms();
  for (const char* kind : {"difference", "evidence", "noise"}) {
    const std::string name = std::string("image+") + kind;
    if (std::any_of(list.begin(), list.end(), [&](const Arm& arm) { return arm.name == name; })) continue;
    if (config.encoder.arms == "all") list.push_back({name + ", image-text loss", kind, 1.0});
    list.push_back({name, kind, hybrid});
  }
  return list;
}

std::vector<std::string> study_texts(const RunData& data, const std::vector<std::size_t>& rows) {
  std::vector<std::string> texts;
  for (std::size_t row : rows) {
    const Study& study = data.study(row);
    if (data.cohort.has_reports)
      texts.push_back(split_sections(study.report).text());
    else
      texts.push_back(label_derived_text(data.cohort.findings, study.labels).text);
  }
  return texts;
}

at::Tensor study_numbers(const RunData& data, const std::vector<std::size_t>& rows, const std::string& column) {
  if (column.empty()) return {};
  const bool patients = column == "patient_id";
  std::map<std::pair<std::string, std::string>, std::int64_t> numbers;
  std::vector<std::int64_t> studies;
  bool known = patients;
  for (std::size_t row : rows) {
    const Study& study = data.study(row);
    const std::string name = patients ? "" : study.meta_value(column);
    const bool blank = !patients && name.empty();
    known = known || !blank;
    const auto fresh = static_cast<std::int64_t>(studies.size());
    studies.push_back(blank ? fresh : numbers.emplace(std::pair(study.patient_id, name), fresh).first->second);
  }
  if (!known) {
    std::set<std::string> columns = {"patient_id"};
    for (std::size_t row : rows)
      for (const auto& entry : data.study(row).meta) columns.insert(entry.first);
    fail(ErrorCode::kNotFound, "daug::Run", "encoder.study",
         fmt::format("one of {}, as the training images have them", fmt::join(columns, ", ")), column);
  }
  return at::tensor(studies, at::kLong);
}

std::vector<std::string> metadata_columns(const RunData& data, const std::string& list) {
  std::set<std::string> known = {"view"};
  for (const Study& study : data.cohort.studies)
    for (const auto& entry : study.meta) known.insert(entry.first);
  std::vector<std::string> columns;
  for (const auto& name : parse_names(list)) {
    if (known.count(name) > 0)
      columns.push_back(name);
    else if (list != RunConfig{}.evaluate.metadata)
      fail(ErrorCode::kNotFound, "daug::Run", "evaluate.metadata",
           fmt::format("columns with a value in the cohort: {}", fmt::join(known, ", ")), "'" + name + "'");
  }
  return columns;
}

std::string Run::Impl::tokenizer_fingerprint() const {
  Fingerprint fingerprint;
  for (const char* name : {"vocab.json", "merges.txt"})
    fingerprint.add(name, fingerprint_file(path(std::string("tokenizer/") + name)));
  return fingerprint.hex();
}

Tokenizer load_tokenizer(const Run::Impl& run) {
  TokenizerOptions options;
  options.cleaning = text_cleaning(run.config);
  return Tokenizer::load(run.path("tokenizer"), options);
}

TextBatch to_text_batch(const Tokenizer& tokenizer, const std::vector<std::string>& texts, std::int64_t context) {
  const TokenBatch batch = tokenizer.encode_batch_longest(texts, context);
  const auto count = static_cast<std::int64_t>(texts.size());
  const std::int64_t length = count > 0 ? static_cast<std::int64_t>(batch.ids.size()) / count : 0;
  TextBatch result;
  result.ids = at::tensor(batch.ids, at::kLong).view({count, length});
  result.end = at::tensor(batch.lengths, at::kLong) - 1;
  return result;
}

ClassForm class_form(const RunConfig& config) {
  return config.encoder.class_form == "paired" ? ClassForm::kPaired : ClassForm::kBce;
}

std::vector<std::string> training_prompts(const std::vector<std::string>& findings, ClassForm form) {
  const ClassPrompts prompts = class_prompts(findings);
  return form == ClassForm::kPaired ? prompts.paired() : prompts.positive;
}

at::Tensor uncertain_labels(const RunData& data, const std::vector<std::size_t>& rows) {
  const auto findings = static_cast<std::int64_t>(data.findings());
  at::Tensor uncertain = at::zeros({static_cast<std::int64_t>(rows.size()), findings}, at::kBool);
  bool* cell = uncertain.data_ptr<bool>();
  for (const std::size_t row : rows)
    for (std::size_t f = 0; f < data.findings(); ++f) *cell++ = data.study(row).labels[f] == LabelState::kUncertain;
  return uncertain;
}

EncoderTrainerOptions Run::Impl::encoder_options(const Arm& arm) {
  const auto& e = config.encoder;
  EncoderTrainerOptions options;
  options.image = image_tower(config);
  options.text = text_tower(config);
  options.loss.clip_weight = arm.clip_weight;
  options.loss.class_form = class_form(config);
  options.loss.class_bias = e.class_bias_value;
  options.loss.logit_scale = e.logit_scale;
  options.loss.logit_bias = e.logit_bias;
  if (e.loss == "siglip") options.loss.contrastive_form = ContrastiveForm::kSigmoid;
  if (e.negatives == "masked") options.loss.label_pairs = LabelPairs::kIgnored;
  if (e.negatives == "soft") options.loss.label_pairs = LabelPairs::kSoft;
  if (e.negatives == "positives") options.loss.label_pairs = LabelPairs::kPositives;
  options.loss.label_softness = e.label_softness;
  if (e.uncertain == "smoothed") options.loss.uncertain = UncertainLabels::kSmoothed;
  options.loss.uncertain_target = e.uncertain_target;
  if (e.learn_temperature) {
    options.loss.min_logit_scale = e.min_logit_scale;
    options.loss.max_logit_scale = e.max_logit_scale;
  }
  options.learn_logit_scale = e.learn_temperature;
  options.learn_class_bias = e.class_bias;
  options.learn_logit_bias = e.loss == "siglip";
  options.augment.mode = arm.maps.empty() ? ChannelMode::kNone : channel_mode(e.mode);
  options.augment.map_index = e.map_index;
  options.augment.max_rotation = e.rotation;
  options.augment.max_shift = e.shift;
  options.augment.max_scale = e.zoom;
  options.epochs = e.epochs;
  options.batch_size = e.batch;
  options.seed = static_cast<std::uint64_t>(config.seed);
  options.optimizer.learning_rate = e.learning_rate;
  options.optimizer.weight_decay = e.weight_decay;
  options.optimizer.warmup_steps = e.warmup_steps;
  options.optimizer.ema_decay = e.ema;
  options.optimizer.clip_norm = e.clip_norm;
  options.optimizer.layer_decay = e.layer_decay;
  options.optimizer.freeze = parse_names(e.freeze);
  options.optimizer.max_skipped = e.max_skipped;
  options.optimizer.min_improvement = e.min_improvement;
  options.chunk_size = e.chunk;
  options.device = device;
  options.precision = training_precision(e.precision);
  return options;
}

const PretrainedTowers& Run::Impl::pretrained() {
  if (pretrained_) return *pretrained_;
  constexpr const char* kFunction = "daug::Run";
  const auto& e = config.encoder;
  PretrainedTowers towers;
  const auto from_torchvision = [&] {
    TorchvisionLoadOptions how;
    how.image_size = config.size;
    how.embed_dim = e.embedding;
    how.seed = static_cast<std::uint64_t>(config.seed);
    TorchvisionReport report;
    towers.image = load_torchvision(e.image_checkpoint, how, &report);
    // What no weight tells: built once more with it, when it is asked for.
    ImageEncoderOptions options = towers.image->options();
    options.drop_path = e.drop_path;
    options.resnet.pooling = image_pooling(e.pooling, options.resnet.pooling);
    options.densenet.pooling = image_pooling(e.pooling, options.densenet.pooling);
    if (e.drop_path > 0 || e.pooling != "default") {
      towers.image = ImageEncoder(options, how.seed);
      report = load_torchvision(e.image_checkpoint, towers.image, TorchvisionHead::kReplace);
    }
    const auto list = [](const std::vector<std::string>& names) {
      return names.empty() ? std::string("nothing") : fmt::format("{}", fmt::join(names, ", "));
    };
    log(fmt::format("{}: left out {}; kept as initialised {}", e.image_checkpoint, list(report.left_out),
                    list(report.untouched)));
    if (options.in_channels == 3) towers.pixels = kImageNetPixels;
    if (e.pixels == "radiograph") towers.pixels = kRadiographPixels;
  };
  const auto from_encoders = [&] {
    const EncoderPair pair = load_encoders(e.image_checkpoint);
    towers.image = pair.image;
    towers.pixels = pair.pixels;
    const auto& options = pair.image->options();
    const auto must_be = [&](const char* what, std::int64_t expected, std::int64_t actual) {
      if (actual != expected)
        fail(ErrorCode::kMismatch, kFunction, detail::concat("encoder.image_checkpoint: ", what), expected, actual);
    };
    must_be("map channels", 0, options.extra_channels);
    must_be("heatmap towers", 0, pair.heatmap.is_empty() ? 0 : 1);
    must_be("image size", config.size, options.image_size);
    if (e.pixels != "default")
      fail(ErrorCode::kMismatch, kFunction, "encoder.pixels", "default, as the checkpoint was trained", e.pixels);
    if (e.pooling != "default" || e.drop_path != options.drop_path)
      fail(ErrorCode::kMismatch, kFunction, "encoder.pooling and encoder.drop_path",
           detail::concat("default and ", options.drop_path, ", as the checkpoint was trained"),
           detail::concat(e.pooling, " and ", e.drop_path));
  };
  if (e.clip.empty()) {
    const auto metadata = read_safetensors_header(e.image_checkpoint).metadata;
    const auto format = metadata.find("format");
    if (format != metadata.end() && format->second.rfind("daug-encoders-", 0) == 0)
      from_encoders();
    else
      from_torchvision();
  } else {
    ClipLoadOptions how;
    how.image_size = config.size;
    how.drop_path = e.drop_path;
    how.assume_defaults = !e.clip_strict;
    how.image_positions = position_filter(e.image_positions);
    how.text_positions = position_filter(e.text_positions);
    ClipModel clip = load_clip_folder(e.clip, how);
    if (clip.text->options().context_length < e.context) {  // a longer table than needed is used as it is
      how.context_length = e.context;
      clip = load_clip_folder(e.clip, how);
    }
    if (!clip.assumed.empty())
      log(fmt::format("{}: what its configuration leaves out is taken as {}", e.clip, fmt::join(clip.assumed, ", ")));
    log(fmt::format("{}: its ln tau of {:.4f} is not taken; encoder.logit_scale says {}", e.clip,
                    clip.logit_scale.item<double>(), e.logit_scale));
    require_vocabulary(clip.text, Tokenizer::load(e.clip).size(), kFunction);
    towers.image = clip.image;
    towers.text = clip.text;
    if (clip.image->options().in_channels == 3) towers.pixels = kClipPixels;
  }
  return pretrained_.emplace(std::move(towers));
}

EncoderPair Run::Impl::starting_encoders(const Arm& arm, const EncoderTrainerOptions& options) {
  const auto findings = static_cast<std::int64_t>(data().findings());
  if (!has_checkpoint()) return make_encoders(options, map_channels(arm), findings);
  const PretrainedTowers& towers = pretrained();
  TextEncoderOptions text = options.text;
  text.embed_dim = towers.image->options().embed_dim;
  EncoderPair pair = make_encoders(towers.image, towers.text.is_empty() ? TextEncoder(text, options.seed) : towers.text,
                                   options, map_channels(arm), findings);
  pair.pixels = towers.pixels;
  return pair;
}

std::int64_t Run::Impl::map_channels(const Arm& arm) {
  return arm.maps.empty() ? 0 : static_cast<std::int64_t>(data().maps());
}

at::Tensor Run::Impl::arm_maps(const Arm& arm, const std::vector<std::size_t>& rows) {
  if (arm.maps.empty()) return {};
  if (arm.maps == "noise") {
    const std::vector<std::uint64_t> items(rows.begin(), rows.end());
    return item_noise(items, map_channels(arm), config.size, config.size, static_cast<std::uint64_t>(config.seed),
                      "noise channels");
  }
  const MapScaler scaler = MapScaler::fit(maps().select(arm.maps, data().encoder_train));
  return scaler.apply(maps().select(arm.maps, rows)).to(at::kFloat);
}

void Run::Impl::train_encoder_arms() {
  constexpr const char* kFunction = "daug::Run: encoders";
  const std::string made_by = fingerprint(Stage::kEncoders);
  const RunData& d = data();
  const auto group = config.ranks > 1 ? make_process_group(process_group_options(config)) : nullptr;
  const detail::Ranks ranks(group.get());
  ranks.require_same(kFunction, "settings and data", made_by);
  // Rank 0 alone changes the folder; what it cannot do is an error on all.
  const auto by_first = [&](const std::function<void()>& work) {
    ranks.of_all(kFunction, [&] {
      if (ranks.rank() == 0) work();
      return 0.0;
    });
  };
  const auto texts = study_texts(d, d.encoder_train);
  const auto prompts = training_prompts(d.cohort.findings, class_form(config));
  by_first([&] {
    fs::create_directories(path("encoders"));
    fs::create_directories(path("tokenizer"));
    if (config.encoder.clip.empty()) {
      BpeTrainerOptions bpe;
      bpe.vocabulary_size = config.encoder.vocabulary;
      bpe.cleaning = text_cleaning(config);
      BpeTrainer trainer(bpe);
      for (const auto& text : texts) trainer.add(text);
      for (const auto& prompt : prompts) trainer.add(prompt);
      trainer.train().save(path("tokenizer"));
    } else {
      BpeVocabulary::load(config.encoder.clip).save(path("tokenizer"));
    }
    write_file_atomically(path("tokenizer/") + kMadeBy, made_by);
  });
  const Tokenizer tokenizer = load_tokenizer(*this);

  EncoderDataset common;
  common.images = images(d.encoder_train);
  common.text = to_text_batch(tokenizer, texts, config.encoder.context);
  std::vector<float> has_text;
  for (const auto& text : texts) has_text.push_back(text.empty() ? 0.0F : 1.0F);
  common.text_mask = at::tensor(has_text);
  const auto set_labels = [](EncoderDataset& dataset, const at::Tensor& states) {
    dataset.labels = states.gt(0).to(at::kFloat);
    dataset.label_mask = states.ne(0).to(at::kFloat);
  };
  const at::Tensor states = take(d.training_states(), d.encoder_train);
  if (config.encoder.uncertain == "masked") states.masked_fill_(uncertain_labels(d, d.encoder_train), 0);
  set_labels(common, states);
  if (config.encoder.uncertain == "smoothed") {
    const at::Tensor uncertain = uncertain_labels(d, d.encoder_train);
    common.labels.masked_fill_(uncertain, -1);
    common.label_mask.masked_fill_(uncertain, 1);
  }
  common.prompts = to_text_batch(tokenizer, prompts, config.encoder.context);
  common.study = study_numbers(d, d.encoder_train, config.encoder.study);
  if (config.encoder.positive_weights > 0)
    common.positive_weights = positive_weights(states, config.encoder.positive_weights);
  const bool validates = config.encoder.patience > 0;
  EncoderDataset validation;
  if (validates) {
    validation.images = images(d.val);
    set_labels(validation, take(d.states, d.val));
    validation.prompts = common.prompts;
  }

  const std::vector<Arm> list = arms();
  std::vector<EncoderDataset> datasets;
  std::vector<EncoderTrainerOptions> options;
  for (const auto& arm : list) {
    datasets.push_back(common);
    datasets.back().maps = arm_maps(arm, d.encoder_train);
    options.push_back(encoder_options(arm));
    options.back().text.vocab_size = tokenizer.size();
    options.back().group = group.get();
  }
  if (config.budget > 0) {
    const std::int64_t epochs = remembered("encoder_epochs", made_by, [&] {
      EncoderTrainerOptions probe = options.back();
      probe.epochs = 1;
      const auto start = std::chrono::steady_clock::now();
      train_encoders(starting_encoders(list.back(), probe), datasets.back(), probe, stage_control("measure encoders"));
      control.stop.throw_if_stopped(kFunction);  // what was cut short measures nothing
      const double epoch = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      const double seconds = config.budget * 60 * kBudgetShares.encoders * static_cast<double>(network_threads(config));
      return std::max<std::int64_t>(1, static_cast<std::int64_t>(seconds / epoch / static_cast<double>(list.size())));
    });
    for (auto& option : options) option.epochs = epochs;
  }
  for (std::size_t i = 0; i < list.size(); ++i) {
    TrainerOptions& optimizer = options[i].optimizer;
    optimizer.checkpoint = path(list[i].file() + ".checkpoint");
    optimizer.fingerprint = made_by + " " + list[i].name;
    by_first([&] { keep_other_checkpoint(Stage::kEncoders, "encoder " + list[i].name, optimizer); });
  }
  if (has_checkpoint()) pretrained();  // read once, before the threads share it
  std::vector<std::string> notes(list.size());
  // Arms are independent: each trains on one thread, several side by side. No inference mode here. Those of several
  // ranks take turns, as ranks have to do everything in the same order.
  for_each_parallel(list.size(), ranks.size() > 1 ? 1 : network_threads(config), [&](std::size_t i) {
    const Arm& arm = list[i];
    const std::string file = path(arm.file());
    const auto is_there = [&] {
      return fs::exists(file) && read_safetensors_header(file).metadata["fingerprint"] == made_by ? 1.0 : 0.0;
    };
    if (ranks.of_all(kFunction, is_there)[0] > 0) return;
    EncoderTrainerOptions trained = options[i];
    trained.optimizer.checkpoint_every =
        std::max<std::int64_t>(1, common.images.size(0) / trained.batch_size);  // an epoch
    trained.optimizer.patience = config.encoder.patience;
    EncoderDataset held_out = validation;
    if (validates) held_out.maps = arm_maps(arm, d.val);
    TrainingHistory history;
    const std::map<std::string, std::string> metadata = {
        {"fingerprint", made_by}, {"arm", arm.name}, {"tokenizer", tokenizer_fingerprint()}};
    const auto keep_last = [&](const EncoderPair& last) {
      by_first([&] {
        if (validates) save_encoders(path(arm.last_file()), last, metadata);
      });
    };
    const EncoderPair pair = train_encoders(starting_encoders(arm, trained), datasets[i], trained,
                                            stage_control("train encoder: " + arm.name), &history,
                                            validates ? &held_out : nullptr, keep_last);
    if (!history.finished) throw Error(ErrorCode::kCancelled, "daug::Run: encoders: stopped on request");
    if (history.skipped_steps > 0)
      notes[i] += fmt::format("; {} steps without finite loss and gradient were skipped", history.skipped_steps);
    if (validates)
      notes[i] += fmt::format("; the best of {} validations after {} of {} steps", history.validation.size(),
                              history.best_step, history.loss.size());
    by_first([&] {
      SafetensorsFile curve;
      curve.metadata["fingerprint"] = made_by;
      curve.tensors.emplace("loss", Array::from(history.loss, {static_cast<std::int64_t>(history.loss.size())}));
      write_safetensors(file + ".history", curve);
      save_encoders(file, pair, metadata);  // last, as an arm that has it is done
      fs::remove(trained.optimizer.checkpoint);
    });
  });
  for (std::size_t i = 0; i < list.size(); ++i)
    if (!notes[i].empty()) log("encoder " + list[i].name + notes[i]);
}

EncoderPair load_encoders(Run::Impl& run, const Arm& arm) {
  std::map<std::string, std::string> metadata;
  const std::string file = run.path(arm.file());
  const EncoderPair pair = load_encoders(file, &metadata);
  require_metadata(metadata, file, "fingerprint", run.fingerprint(Stage::kEncoders));
  require_metadata(metadata, file, "tokenizer", run.tokenizer_fingerprint());
  pair.as_module()->to(run.device);
  return pair;
}

at::Tensor embed_rows(Run::Impl& run, const Arm& arm, const EncoderPair& pair, const std::vector<std::size_t>& rows) {
  const HeatmapChannelAugmenter augmenter(run.encoder_options(arm).augment);
  return embed_images(pair, augmenter, run.images(rows), run.arm_maps(arm, rows));
}

at::Tensor class_embeddings(Run::Impl& run, const EncoderPair& pair, const Tokenizer& tokenizer) {
  const auto& findings = run.data().cohort.findings;
  const std::int64_t context = run.config.encoder.context;
  const ClassForm form = class_form(run.config);
  if (run.config.encoder.prompts == "ensemble")
    return embed_class_prompts(pair.text, tokenizer, class_prompt_ensemble(findings), form, context);
  return embed_texts(pair, to_text_batch(tokenizer, training_prompts(findings, form), context));
}

std::function<at::Tensor(const at::Tensor&)> image_only_classifier(Run::Impl& run) {
  const std::vector<Arm> arms = run.paper_arms();
  const Arm& arm = *std::find_if(arms.begin(), arms.end(), [](const Arm& one) { return one.name == "image"; });
  const EncoderPair pair = load_encoders(run, arm);
  const at::Tensor classes = class_embeddings(run, pair, load_tokenizer(run));
  const EncoderTrainerOptions options = run.encoder_options(arm);
  return [=, augmenter = HeatmapChannelAugmenter(options.augment)](const at::Tensor& images) {
    return class_probabilities(pair, embed_images(pair, augmenter, images, {}), classes, options.loss);
  };
}

RetrievalValues flips(const RunData& data, const std::vector<std::size_t>& rows, const at::Tensor& before,
                      const std::function<at::Tensor(std::int64_t map)>& after) {
  RetrievalValues flipped{rows.size(), data.findings(), {}};
  flipped.values.assign(rows.size() * data.findings(), std::numeric_limits<double>::quiet_NaN());
  for (std::size_t f = 0; f < data.findings(); ++f) {
    const auto map = data.map_of(f);
    if (!map) continue;
    const auto finding = static_cast<std::int64_t>(f);
    const at::Tensor changed = after(static_cast<std::int64_t>(*map));
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const auto at = static_cast<std::int64_t>(i);
      if (data.state(rows[i], f) > 0 && before[at][finding].item<float>() > 0.5F)
        flipped.values[i * data.findings() + f] = changed[at][finding].item<float>() < 0.5F ? 1 : 0;
    }
  }
  return flipped;
}

std::string flip_rate_definition(const RunData& data) {
  return "of the images positive for a finding that the image-only encoder calls positive (probability above 0.5), the "
         "share it calls negative after translation; macro over findings" +
         data.text_note();
}

}  // namespace daug
