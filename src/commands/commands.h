/**
 * @file commands.h
 * What the program does, one function a command. All ranks call it; it returns OK or a status with its message
 * recorded (base/error.h). A failure that the other ranks cannot know of is shared by comm_agree(); main prints it.
 */
#ifndef QST_COMMANDS_COMMANDS_H
#define QST_COMMANDS_COMMANDS_H

#include "base/options.h"
#include "comm/comm.h"

int command_quantize(const struct options *options, struct comm *comm);
int command_tokenize(const struct options *options, struct comm *comm);
int command_train(const struct options *options, struct comm *comm);
int command_eval(const struct options *options, struct comm *comm);
int command_generate(const struct options *options, struct comm *comm);
int command_export(const struct options *options, struct comm *comm);
int command_inspect(const struct options *options, struct comm *comm);
int command_report(const struct options *options, struct comm *comm);
int command_plan(const struct options *options, struct comm *comm);
int command_calibrate(const struct options *options, struct comm *comm);
int command_taps(const struct options *options, struct comm *comm);

#endif
