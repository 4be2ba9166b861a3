"""Stages of training: nano pretraining, projector alignment, fine-tuning."""
