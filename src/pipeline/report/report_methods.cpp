#include "report_methods.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>

#include "pipeline/evaluation/evaluate_classification.h"

namespace daug {

namespace {

std::string guidance_text(const RunConfig::Maps& maps) {
  if (maps.add_classifier && maps.guidance != "classifier") {
    RunConfig::Maps one = maps;
    one.add_classifier = false;
    RunConfig::Maps other = one;
    other.guidance = "classifier";
    return guidance_text(one) + " and " + guidance_text(other);
  }
  if (maps.guidance == "contrast")
    return fmt::format("the difference between the estimates under a target and its opposite, weighted {} [3]",
                       maps.weight);
  if (maps.guidance == "classifier_free") return fmt::format("classifier-free guidance of weight {} [3]", maps.weight);
  if (maps.guidance == "classifier")
    return fmt::format("the gradient of a noise-aware classifier, scale {} [4]", maps.classifier_scale);
  return "the condition alone";
}

/// What there is to say of a training that is not in float32.
std::string precision_text(const std::string& precision) {
  return fmt::format("products and convolutions in bfloat16{}",
                     precision == "auto" ? " where the processor multiplies it" : "");
}

/// What there is to say of the training beyond the plain squared error.
std::string loss_text(const RunConfig::Diffusion& diffusion) {
  std::string text;
  if (diffusion.objective != "mse") text += fmt::format(", objective {}", diffusion.objective);
  if (diffusion.variance.rfind("learned", 0) == 0) text += fmt::format(", with variance {}", diffusion.variance);
  if (diffusion.min_snr > 0) text += fmt::format(", min-SNR weights of gamma {}", diffusion.min_snr);
  if (diffusion.loss_aware_levels) text += ", levels drawn by their losses";
  if (diffusion.dropout > 0) text += fmt::format(", dropout {}", diffusion.dropout);
  if (diffusion.precision != "float32") text += ", " + precision_text(diffusion.precision);
  return text;
}

std::string start_text(const RunConfig::Encoder& encoder) {
  if (!encoder.clip.empty()) return fmt::format(", both started from the checkpoint {},", encoder.clip);
  if (!encoder.image_checkpoint.empty())
    return fmt::format(", the former started from the checkpoint {},", encoder.image_checkpoint);
  return "";
}

struct Reference {
  const char* text;
  const char* bibtex;
};

/// What the methods section of every run cites, in the order of its numbers.
constexpr Reference kReferences[] = {
    {"Ho, Jain, Abbeel: Denoising diffusion probabilistic models. NeurIPS 2020, arXiv 2006.11239.",
     R"(@inproceedings{ho2020ddpm,
  author = {Ho, Jonathan and Jain, Ajay and Abbeel, Pieter},
  title = {Denoising Diffusion Probabilistic Models},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {33},
  year = {2020},
  eprint = {2006.11239},
  archiveprefix = {arXiv}
})"},
    {"Song, Meng, Ermon: Denoising diffusion implicit models. ICLR 2021, arXiv 2010.02502.",
     R"(@inproceedings{song2021ddim,
  author = {Song, Jiaming and Meng, Chenlin and Ermon, Stefano},
  title = {Denoising Diffusion Implicit Models},
  booktitle = {International Conference on Learning Representations},
  year = {2021},
  eprint = {2010.02502},
  archiveprefix = {arXiv}
})"},
    {"Ho, Salimans: Classifier-free diffusion guidance. 2022, arXiv 2207.12598.",
     R"(@misc{ho2022guidance,
  author = {Ho, Jonathan and Salimans, Tim},
  title = {Classifier-Free Diffusion Guidance},
  year = {2022},
  eprint = {2207.12598},
  archiveprefix = {arXiv}
})"},
    {"Dhariwal, Nichol: Diffusion models beat GANs on image synthesis. NeurIPS 2021, arXiv 2105.05233.",
     R"(@inproceedings{dhariwal2021guided,
  author = {Dhariwal, Prafulla and Nichol, Alexander},
  title = {Diffusion Models Beat {GAN}s on Image Synthesis},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {34},
  year = {2021},
  eprint = {2105.05233},
  archiveprefix = {arXiv}
})"},
    {"Wolleb, Bieder, Sandkühler, Cattin: Diffusion models for medical anomaly detection. MICCAI 2022, arXiv "
     "2203.04306.",
     R"(@inproceedings{wolleb2022anomaly,
  author = {Wolleb, Julia and Bieder, Florentin and Sandk{\"u}hler, Robin and Cattin, Philippe C.},
  title = {Diffusion Models for Medical Anomaly Detection},
  booktitle = {Medical Image Computing and Computer Assisted Intervention},
  year = {2022},
  eprint = {2203.04306},
  archiveprefix = {arXiv}
})"},
    {"Radford et al.: Learning transferable visual models from natural language supervision. ICML 2021, arXiv "
     "2103.00020.",
     R"(@inproceedings{radford2021clip,
  author = {Radford, Alec and others},
  title = {Learning Transferable Visual Models From Natural Language Supervision},
  booktitle = {International Conference on Machine Learning},
  year = {2021},
  eprint = {2103.00020},
  archiveprefix = {arXiv}
})"},
    {"Jin, Zhou, Fang, Hwang: DAug: diffusion-based channel augmentation for radiology image retrieval and "
     "classification. 2024, arXiv 2412.04828.",
     R"(@misc{jin2024daug,
  author = {Jin, Ying and Zhou, Zhuoran and Fang, Haoquan and Hwang, Jenq-Neng},
  title = {{DAug}: Diffusion-based Channel Augmentation for Radiology Image Retrieval and Classification},
  year = {2024},
  eprint = {2412.04828},
  archiveprefix = {arXiv}
})"},
    {"Efron, Tibshirani: An introduction to the bootstrap. Chapman & Hall 1993.",
     R"(@book{efron1993bootstrap,
  author = {Efron, Bradley and Tibshirani, Robert J.},
  title = {An Introduction to the Bootstrap},
  publisher = {Chapman \& Hall},
  year = {1993}
})"},
    {"Phipson, Smyth: Permutation p-values should never be zero. Statistical Applications in Genetics and Molecular "
     "Biology 9(1), 2010.",
     R"(@article{phipson2010permutation,
  author = {Phipson, Belinda and Smyth, Gordon K.},
  title = {Permutation P-values Should Never Be Zero: Calculating Exact P-values When Permutations Are Randomly Drawn},
  journal = {Statistical Applications in Genetics and Molecular Biology},
  volume = {9},
  number = {1},
  year = {2010}
})"},
    {"DeLong, DeLong, Clarke-Pearson: Comparing the areas under two or more correlated receiver operating "
     "characteristic curves. Biometrics 44(3), 1988.",
     R"(@article{delong1988comparing,
  author = {DeLong, Elizabeth R. and DeLong, David M. and Clarke-Pearson, Daniel L.},
  title = {Comparing the Areas under Two or More Correlated Receiver Operating Characteristic Curves: A Nonparametric Approach},
  journal = {Biometrics},
  volume = {44},
  number = {3},
  pages = {837--845},
  year = {1988}
})"},
    {"Obuchowski: Nonparametric analysis of clustered ROC curve data. Biometrics 53(2), 1997.",
     R"(@article{obuchowski1997clustered,
  author = {Obuchowski, Nancy A.},
  title = {Nonparametric Analysis of Clustered {ROC} Curve Data},
  journal = {Biometrics},
  volume = {53},
  number = {2},
  pages = {567--578},
  year = {1997}
})"},
    {"Holm: A simple sequentially rejective multiple test procedure. Scandinavian Journal of Statistics 6(2), 1979.",
     R"(@article{holm1979simple,
  author = {Holm, Sture},
  title = {A Simple Sequentially Rejective Multiple Test Procedure},
  journal = {Scandinavian Journal of Statistics},
  volume = {6},
  number = {2},
  pages = {65--70},
  year = {1979}
})"},
    {"Guo, Pleiss, Sun, Weinberger: On calibration of modern neural networks. ICML 2017, arXiv 1706.04599.",
     R"(@inproceedings{guo2017calibration,
  author = {Guo, Chuan and Pleiss, Geoff and Sun, Yu and Weinberger, Kilian Q.},
  title = {On Calibration of Modern Neural Networks},
  booktitle = {International Conference on Machine Learning},
  year = {2017},
  eprint = {1706.04599},
  archiveprefix = {arXiv}
})"},
    {"Vickers, Elkin: Decision curve analysis. Medical Decision Making 26(6), 2006.",
     R"(@article{vickers2006decision,
  author = {Vickers, Andrew J. and Elkin, Elena B.},
  title = {Decision Curve Analysis: A Novel Method for Evaluating Prediction Models},
  journal = {Medical Decision Making},
  volume = {26},
  number = {6},
  pages = {565--574},
  year = {2006}
})"},
    {"Niemeijer, Loog, Abramoff, Viergever, Prokop, van Ginneken: On combining computer-aided detection systems. IEEE "
     "Transactions on Medical Imaging 30(2), 2011.",
     R"(@article{niemeijer2011combining,
  author = {Niemeijer, Meindert and Loog, Marco and Abr{\`a}moff, Michael D. and Viergever, Max A. and Prokop, Mathias and van Ginneken, Bram},
  title = {On Combining Computer-Aided Detection Systems},
  journal = {IEEE Transactions on Medical Imaging},
  volume = {30},
  number = {2},
  pages = {215--223},
  year = {2011}
})"}};

// What options of the encoders' training are from, cited where they are in use.
constexpr Reference kSigmoidLoss = {
    "Zhai, Mustafa, Kolesnikov, Beyer: Sigmoid loss for language image pre-training. ICCV 2023, arXiv 2303.15343.",
    R"(@inproceedings{zhai2023sigmoid,
  author = {Zhai, Xiaohua and Mustafa, Basil and Kolesnikov, Alexander and Beyer, Lucas},
  title = {Sigmoid Loss for Language Image Pre-Training},
  booktitle = {IEEE/CVF International Conference on Computer Vision},
  year = {2023},
  eprint = {2303.15343},
  archiveprefix = {arXiv}
})"};
constexpr Reference kSmoothedLabels = {
    "Pham, Le, Tran, Ngo, Nguyen: Interpreting chest X-rays via CNNs that exploit hierarchical disease dependencies "
    "and disease uncertainty. Neurocomputing 437, 2021, arXiv 1911.06475.",
    R"(@article{pham2021interpreting,
  author = {Pham, Hieu H. and Le, Tung T. and Tran, Dat Q. and Ngo, Dat T. and Nguyen, Ha Q.},
  title = {Interpreting Chest {X}-rays via {CNN}s that Exploit Hierarchical Disease Dependencies and Disease Uncertainty},
  journal = {Neurocomputing},
  volume = {437},
  year = {2021},
  eprint = {1911.06475},
  archiveprefix = {arXiv}
})"};
constexpr Reference kSupervisedContrast = {
    "Khosla et al.: Supervised contrastive learning. NeurIPS 2020, arXiv 2004.11362.",
    R"(@inproceedings{khosla2020supervised,
  author = {Khosla, Prannay and others},
  title = {Supervised Contrastive Learning},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {33},
  year = {2020},
  eprint = {2004.11362},
  archiveprefix = {arXiv}
})"};
constexpr Reference kUnifiedContrast = {
    "Yang et al.: Unified contrastive learning in image-text-label space. CVPR 2022, arXiv 2204.03610.",
    R"(@inproceedings{yang2022unified,
  author = {Yang, Jianwei and others},
  title = {Unified Contrastive Learning in Image-Text-Label Space},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2022},
  eprint = {2204.03610},
  archiveprefix = {arXiv}
})"};
constexpr Reference kSoftPairs = {
    "Wang, Wu, Agarwal, Sun: MedCLIP: contrastive learning from unpaired medical images and text. EMNLP 2022, arXiv "
    "2210.10163.",
    R"(@inproceedings{wang2022medclip,
  author = {Wang, Zifeng and Wu, Zhenbang and Agarwal, Dinesh and Sun, Jimeng},
  title = {{MedCLIP}: Contrastive Learning from Unpaired Medical Images and Text},
  booktitle = {Conference on Empirical Methods in Natural Language Processing},
  year = {2022},
  eprint = {2210.10163},
  archiveprefix = {arXiv}
})"};
constexpr Reference kGradientCache = {
    "Gao, Zhang, Han, Callan: Scaling deep contrastive learning batch size under memory limited setup. RepL4NLP 2021, "
    "arXiv 2101.06983.",
    R"(@inproceedings{gao2021scaling,
  author = {Gao, Luyu and Zhang, Yunyi and Han, Jiawei and Callan, Jamie},
  title = {Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup},
  booktitle = {Workshop on Representation Learning for NLP},
  year = {2021},
  eprint = {2101.06983},
  archiveprefix = {arXiv}
})"};

using References = std::vector<const Reference*>;

References references_of_every_run() {
  References references;
  for (const Reference& reference : kReferences) references.push_back(&reference);
  return references;
}

/// The number of a reference, which joins the others where it is new.
std::string cited(const Reference& reference, References& references) {
  auto found = std::find(references.begin(), references.end(), &reference);
  if (found == references.end()) found = references.insert(found, &reference);
  return fmt::format("[{}]", found - references.begin() + 1);
}

/// What there is to say of the encoders' training beyond the published loss; what is cited joins the references.
std::string options_text(const RunConfig::Encoder& e, References& references) {
  std::string text;
  const auto say = [&](const std::string& clause) { text += (text.empty() ? " Options in use: " : "; ") + clause; };
  if (e.loss == "siglip")
    say(fmt::format("the image-text term is a sigmoid loss of every pair {}", cited(kSigmoidLoss, references)));
  if (e.negatives == "masked") say("reports and images of other items with the same labels are left out of that term");
  if (e.negatives == "positives")
    say(fmt::format("reports and images with the same labels attract each other {}",
                    cited(kUnifiedContrast, references)));
  if (e.negatives == "soft")
    say(fmt::format("reports and images attract each other by how much their labels agree, softness {}, after {}",
                    e.label_softness, cited(kSoftPairs, references)));
  if (!e.study.empty())
    say(fmt::format("reports and images of a patient's images with the same {} attract each other {}", e.study,
                    cited(kSupervisedContrast, references)));
  if (e.class_form == "paired") say("each finding has a negative and a positive prompt with a softmax over both [7]");
  if (e.learn_temperature)
    say(fmt::format("ln tau is learnt from {} on, between {} and {} [6]", e.logit_scale, e.min_logit_scale,
                    e.max_logit_scale));
  if (e.class_bias)
    say(fmt::format("a bias of each finding is learnt from {} on", e.class_bias_value));
  else if (e.class_bias_value != 0)
    say(fmt::format("every finding has the bias {}", e.class_bias_value));
  if (e.positive_weights > 0)
    say(fmt::format("positive labels weigh negatives / positives of their finding, within a factor of {}",
                    e.positive_weights));
  if (e.uncertain == "masked") say("uncertain labels are left out of the encoders' training");
  if (e.uncertain == "smoothed")
    say(fmt::format("uncertain labels are targets of {}, after {}", e.uncertain_target,
                    cited(kSmoothedLabels, references)));
  if (e.text_cleaning == "open_clip") say("texts are cleaned as open_clip cleans them");
  if (e.chunk > 0)
    say(fmt::format("batches were embedded {} images at a time under one loss {}", e.chunk,
                    cited(kGradientCache, references)));
  if (e.precision != "float32") say(precision_text(e.precision));
  return text.empty() ? text : text + ".";
}

}  // namespace

std::vector<std::string> methods_text(const RunConfig& config, const RunData& data) {
  References references = references_of_every_run();
  const auto& d = config.diffusion;
  const auto& m = config.maps;
  const auto& e = config.encoder;
  const std::string maps_of =
      data.maps() == data.findings() ? "each finding" : fmt::format("each of {} groups of findings", data.maps());
  std::string guided = guidance_text(m);
  if (m.lowest_level > 0 || m.highest_level < m.level)
    guided += fmt::format(" at levels {} to {}", m.lowest_level, std::min(m.highest_level, m.level));
  std::vector<std::string> paragraphs = {
      fmt::format(
          "Radiographs were brought to {0} x {0} pixels with their aspect ratio kept. A denoising diffusion model [1] "
          "with {1} prediction on a {2} schedule of 1000 steps saw {3} training images for {4} steps of {5} images, "
          "at noise levels up to {6}{9}. Its condition has one state for each of {7} findings: present, absent or "
          "unknown; labels of {8} training images were used.",
          config.size, d.prediction, d.schedule, data.train.size(), d.steps, d.batch, d.max_level, data.findings(),
          data.labelled.size(), loss_text(d)),
      fmt::format(
          "Every image was encoded without a target to level {} in {} steps of {} ({} network evaluations a step, [2, "
          "5]) and decoded from there away from {}, guided by {}. Difference maps are the absolute change, {}smoothed. "
          "Evidence maps compare how well the presence and the absence of a finding explain known noise, averaged over "
          "levels {} with {} draws each; they need no reconstruction.{}",
          m.level, m.steps, m.solver, m.evaluations, maps_of, guided,
          m.normalisation == "none" ? "" : "each scaled to [0, 1] and ", m.evidence_levels, m.evidence_samples,
          m.precision == "float32" ? "" : fmt::format(" Networks computed maps in {}.", m.precision)),
      fmt::format(
          "An image and a text encoder [6]{} were trained on {} labelled images for {} epochs with a hybrid loss [7], "
          "weight {} on the image-text term, once with the image alone and once with its maps as further channels, all "
          "else equal; channels of noise are the control. {}{}",
          start_text(e), data.encoder_train.size(), e.epochs, e.clip_weight,
          data.cohort.has_reports ? "Texts are the reports of the cohort."
                                  : "The cohort has no reports: texts were made from the labels by a template.",
          options_text(e, references)),
      fmt::format(
          "Intervals are 95 % percentile bootstraps over patients [8] with {0} resamples. Arms were compared on the "
          "same test images: differences with paired bootstraps of the patients, p-values by exchanging the arms' "
          "results of whole patients in {0} permutations [9] and, by finding, by DeLong's test of AUROCs [10] for "
          "patients with several images [11], corrected by Holm's procedure [12]. Calibration error has {1} bins of "
          "equal width [13]; it was also measured after temperature scaling [13], with a temperature an arm that was "
          "fitted to the validation images. Decision curves show standardised net benefit [14]. Where masks or boxes "
          "are known, lesions found are counted at 1/8 to 8 false positives an image [15].",
          config.evaluate.resamples, kCalibrationBins)};
  for (std::size_t i = 0; i < references.size(); ++i)
    paragraphs.push_back(fmt::format("[{}] {}", i + 1, references[i]->text));
  return paragraphs;
}

std::string methods_bibtex(const RunConfig& config) {
  References references = references_of_every_run();
  options_text(config.encoder, references);
  std::string text;
  for (const Reference* reference : references) text += std::string(reference->bibtex) + "\n\n";
  text.pop_back();
  return text;
}

}  // namespace daug
