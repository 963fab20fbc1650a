#pragma once
// What encoder training, indexing and evaluation share.

#include <functional>
#include <string>
#include <vector>

#include "daug/encoder/tokenizer.h"
#include "daug/metrics/retrieval_values.h"
#include "run_impl.h"

namespace daug {

/// Report text of rows, or the label-derived template where the cohort has no reports.
std::vector<std::string> study_texts(const RunData& data, const std::vector<std::size_t>& rows);

/// Study of each row as a number, [rows]: rows of one patient with the same text in a metadata column, or of one
/// patient for "patient_id"; a row whose cell is blank is a study of its own. Undefined for no column. Throws kNotFound
/// naming encoder.study and the columns there are for one that no row has.
at::Tensor study_numbers(const RunData& data, const std::vector<std::size_t>& rows, const std::string& column);

/// The columns of a list such as evaluate.metadata that the metadata-only baseline takes: those in which any study of
/// the cohort has a value, and "view". Others are left out of the default list, of which few cohorts have all; of any
/// other list kNotFound is thrown, naming evaluate.metadata and the columns there are.
std::vector<std::string> metadata_columns(const RunData& data, const std::string& list);

/// Token ids as tensors.
TextBatch to_text_batch(const Tokenizer& tokenizer, const std::vector<std::string>& texts, std::int64_t context);

/// The tokenizer that the encoders' texts were cut with, once cleaned as encoder.text_cleaning says.
Tokenizer load_tokenizer(const Run::Impl& run);

/// What encoder.class_form names.
ClassForm class_form(const RunConfig& config);

/// The training's prompts: [K] positive ones, or [2K] negative and positive alternating for ClassForm::kPaired.
std::vector<std::string> training_prompts(const std::vector<std::string>& findings, ClassForm form);

/// Labels of -1 as the cohort has them, [rows, F] bool.
at::Tensor uncertain_labels(const RunData& data, const std::vector<std::size_t>& rows);

/// The trained towers of an arm; refuses other fingerprints.
EncoderPair load_encoders(Run::Impl& run, const Arm& arm);

/// Image embeddings [rows, D] of an arm, maps included.
at::Tensor embed_rows(Run::Impl& run, const Arm& arm, const EncoderPair& pair, const std::vector<std::size_t>& rows);

/// The findings' prompts [F, D], in the wording of the training or averaged over several.
at::Tensor class_embeddings(Run::Impl& run, const EncoderPair& pair, const Tokenizer& tokenizer);

/// Probabilities [n, F] of images [n, 1, S, S] by the encoder that sees images alone: it had no part in making maps.
/// Throws as load_encoders.
std::function<at::Tensor(const at::Tensor& images)> image_only_classifier(Run::Impl& run);

/// Whether a classifier that saw a disease no longer sees it after translation, by row and finding: of a row that is
/// positive for a finding and called so (probability above 0.5), 1 where it is called negative (below 0.5) once it was
/// translated away from the finding's map, else 0; NaN everywhere else. before [rows, F]; after(map) [rows, F].
RetrievalValues flips(const RunData& data, const std::vector<std::size_t>& rows, const at::Tensor& before,
                      const std::function<at::Tensor(std::int64_t map)>& after);
/// The definition of their mean where the classifier is image_only_classifier.
std::string flip_rate_definition(const RunData& data);

/// Training rows of the encoders followed by the validation rows: what retrieval searches.
std::vector<std::size_t> gallery_rows(const RunData& data);

/// Index file of an arm.
std::string index_file(const Arm& arm);

}  // namespace daug
