#pragma once
/// @file
/// Every figure of binary and multi-label classification in one include: ROC, precision-recall, calibration, and their
/// averages over findings.

#include "daug/metrics/calibration.h"
#include "daug/metrics/multilabel.h"
#include "daug/metrics/precision_recall.h"
#include "daug/metrics/roc.h"
