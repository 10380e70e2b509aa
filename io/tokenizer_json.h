/**
 * @file tokenizer_json.h
 * The parts of a tokenizer.json (inside of tokenizer_parse()).
 */
#ifndef QST_IO_TOKENIZER_JSON_H
#define QST_IO_TOKENIZER_JSON_H

#include "io/json_read.h"
#include "io/tokenizer_spec.h"

/** "normalizer", "pre_tokenizer" and "decoder". ERR_INPUT names a type or setting that is not supported. */
int json_pipelines(const json_t *root, struct tokenizer_spec *spec);

/** "post_processor": what is added before and after a text. */
int json_post_processor(const json_t *root, struct tokenizer_spec *spec);

/** tokenizer_config.json: the chat template, bos and eos. */
int json_tokenizer_config(const json_t *config, struct tokenizer_spec *spec);

#endif
